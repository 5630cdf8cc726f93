//! Holds a stored answer against the policy in force now.
//!
//! Age is judged when an entry is read, not when it is stored, so a shorter TTL acts on what is
//! already there. Pure, with an explicit clock.

use std::time::Duration;

use crate::rfc9111::{Storable, Wish};

/// Answers that say "not there" are believed for this long at most.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(5);

/// A policy's cache section in the form that entries are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long an entry is fresh.
    pub ttl: Duration,
    /// How long after that it may be served while a new one is fetched.
    pub stale_while_revalidate: Duration,
    /// How long after that it may be served when no new one can be had.
    pub stale_if_error: Duration,
    /// Entries kept in memory.
    pub max_entries: u64,
}

impl From<&phase6_policy::Cache> for Terms {
    fn from(policy: &phase6_policy::Cache) -> Self {
        Self {
            ttl: policy.ttl.get(),
            stale_while_revalidate: policy.stale_while_revalidate.get(),
            stale_if_error: policy.stale_if_error.get(),
            max_entries: policy.max_entries.max(1) as u64,
        }
    }
}

impl Terms {
    /// For how long an entry may be of use, counted from when its making began.
    pub(crate) fn longest(&self, negative: bool) -> Duration {
        if negative {
            return self.ttl.min(LONGEST_NEGATIVE);
        }
        self.ttl + self.stale_while_revalidate.max(self.stale_if_error)
    }

    /// For how long an answer is fresh that says this of itself, before jitter.
    pub(crate) fn life(&self, own: Option<Duration>, negative: bool) -> Duration {
        let life = own.map_or(self.ttl, |own| own.min(self.ttl));
        if negative { life.min(LONGEST_NEGATIVE) } else { life }
    }

    /// Whether nothing that is stored could ever be served.
    pub fn is_off(&self) -> bool {
        self.ttl.is_zero() && self.stale_while_revalidate.is_zero() && self.stale_if_error.is_zero()
    }
}

/// What an entry is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Serve it; it stays fresh for so long.
    Fresh {
        /// Rest of its life.
        left: Duration,
    },
    /// Serve it and fetch a new one in the background.
    Refresh {
        /// How long ago it went stale.
        stale_for: Duration,
    },
    /// Serve it only if no new one can be had.
    Spare {
        /// How long ago it went stale.
        stale_for: Duration,
    },
    /// It is good for nothing.
    Dead,
}

/// What an entry is good for at the age `age`.
///
/// `jitter` is the entry's own share of its life, in (0, 1]: entries that were stored together do
/// not go stale together. It only ever shortens.
pub fn judge(
    stored: &Storable,
    negative: bool,
    jitter: f64,
    age: Duration,
    terms: &Terms,
    wish: &Wish,
) -> Verdict {
    let age = age + stored.age;
    let life = terms.life(stored.lifetime, negative);
    let life = Duration::from_millis((life.as_millis() as u64 as f64 * jitter.clamp(0.0, 1.0)) as u64);
    let left = life.saturating_sub(age);
    let stale_for = age.saturating_sub(life);
    let wanted = !wish.reload
        && wish.max_age.is_none_or(|most| age <= most)
        && wish.min_fresh.is_none_or(|least| left >= least);
    if wanted && !left.is_zero() {
        return Verdict::Fresh { left };
    }
    if stored.must_revalidate || negative {
        return Verdict::Dead;
    }
    let allowed = |own: Option<Duration>, granted: Duration| own.map_or(granted, |own| own.min(granted));
    // Who says how old or how fresh it has to be wants no stale one (RFC 9111, section 5.2.1).
    let takes_stale = !wish.reload && wish.max_age.is_none() && wish.min_fresh.is_none();
    if takes_stale && stale_for < allowed(stored.stale_while_revalidate, terms.stale_while_revalidate) {
        return Verdict::Refresh { stale_for };
    }
    if stale_for < allowed(stored.stale_if_error, terms.stale_if_error) {
        return Verdict::Spare { stale_for };
    }
    Verdict::Dead
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(ttl: u64, refresh: u64, spare: u64) -> Terms {
        Terms {
            ttl: Duration::from_secs(ttl),
            stale_while_revalidate: Duration::from_secs(refresh),
            stale_if_error: Duration::from_secs(spare),
            max_entries: 10,
        }
    }

    fn stored(lifetime: Option<u64>) -> Storable {
        Storable {
            lifetime: lifetime.map(Duration::from_secs),
            max_age: None,
            public: false,
            must_revalidate: false,
            stale_while_revalidate: None,
            stale_if_error: None,
            age: Duration::ZERO,
            vary: vec![],
        }
    }

    fn at(age: u64, stored: &Storable, terms: &Terms) -> Verdict {
        judge(stored, false, 1.0, Duration::from_secs(age), terms, &Wish::default())
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn an_entry_is_fresh_then_refreshed_then_spare_then_dead() {
        let (entry, terms) = (stored(None), terms(5, 2, 60));
        assert_eq!(at(0, &entry, &terms), Verdict::Fresh { left: secs(5) });
        assert_eq!(at(4, &entry, &terms), Verdict::Fresh { left: secs(1) });
        assert_eq!(at(5, &entry, &terms), Verdict::Refresh { stale_for: secs(0) });
        assert_eq!(at(7, &entry, &terms), Verdict::Spare { stale_for: secs(2) });
        assert_eq!(at(65, &entry, &terms), Verdict::Dead);
    }

    #[test]
    fn ttl_expiration_works() {
        assert_eq!(at(5, &stored(None), &terms(5, 0, 0)), Verdict::Dead);
    }

    #[test]
    fn a_shorter_ttl_acts_on_what_is_stored() {
        let entry = stored(None);
        assert!(matches!(at(30, &entry, &terms(60, 0, 0)), Verdict::Fresh { .. }));
        assert_eq!(at(30, &entry, &terms(10, 0, 0)), Verdict::Dead);
    }

    #[test]
    fn a_ttl_of_zero_means_zero() {
        assert_eq!(at(0, &stored(None), &terms(0, 0, 0)), Verdict::Dead);
    }

    #[test]
    fn an_entry_s_own_shorter_life_counts_and_a_longer_one_does_not() {
        assert_eq!(at(0, &stored(Some(2)), &terms(5, 0, 0)), Verdict::Fresh { left: secs(2) });
        assert_eq!(at(0, &stored(Some(50)), &terms(5, 0, 0)), Verdict::Fresh { left: secs(5) });
    }

    #[test]
    fn what_must_be_revalidated_is_never_served_stale() {
        let entry = Storable { must_revalidate: true, ..stored(None) };
        assert_eq!(at(6, &entry, &terms(5, 60, 60)), Verdict::Dead);
    }

    #[test]
    fn a_client_may_ask_for_a_newer_one() {
        let (entry, terms) = (stored(None), terms(10, 10, 60));
        let ask = |wish| judge(&entry, false, 1.0, secs(4), &terms, &wish);
        assert!(matches!(ask(Wish { reload: true, ..Wish::default() }), Verdict::Spare { .. }));
        assert!(matches!(ask(Wish { max_age: Some(secs(3)), ..Wish::default() }), Verdict::Spare { .. }));
        assert!(matches!(ask(Wish { min_fresh: Some(secs(8)), ..Wish::default() }), Verdict::Spare { .. }));
        assert!(matches!(ask(Wish { max_age: Some(secs(4)), ..Wish::default() }), Verdict::Fresh { .. }));
        let stale = |wish| judge(&entry, false, 1.0, secs(14), &terms, &wish);
        assert!(matches!(stale(Wish::default()), Verdict::Refresh { .. }));
        assert!(matches!(stale(Wish { max_age: Some(secs(99)), ..Wish::default() }), Verdict::Spare { .. }));
    }

    #[test]
    fn not_there_is_believed_briefly() {
        let negative = |age| judge(&stored(None), true, 1.0, secs(age), &terms(60, 60, 60), &Wish::default());
        assert_eq!(negative(1), Verdict::Fresh { left: secs(4) });
        assert_eq!(negative(5), Verdict::Dead);
    }

    proptest! {
        #[test]
        fn nothing_is_served_older_than_allowed(
            age in 0..200_u64, own_age in 0..20_u64, own in proptest::option::of(0..100_u64),
            ttl in 0..100_u64, refresh in 0..50_u64, spare in 0..50_u64, jitter in 0.0..=1.0_f64,
        ) {
            let entry = Storable { age: secs(own_age), ..stored(own) };
            let total = age + own_age;
            match judge(&entry, false, jitter, secs(age), &terms(ttl, refresh, spare), &Wish::default()) {
                Verdict::Fresh { .. } => prop_assert!(total < ttl && own.is_none_or(|own| total < own)),
                Verdict::Refresh { .. } => prop_assert!(total < ttl + refresh),
                Verdict::Spare { .. } => prop_assert!(total < ttl + spare),
                Verdict::Dead => {}
            }
        }
    }
}
