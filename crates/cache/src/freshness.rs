//! Freshness of a stored response under the policy in force now.
//!
//! Freshness is computed when an entry is read, not when it is stored, so a shorter TTL applies to entries
//! that are already stored. Pure, with an explicit clock. Leaves parsing and storability to
//! [`crate::rfc9111`].

use std::time::Duration;

use crate::rfc9111::{RequestDirectives, ResponseDirectives};

/// Upper bound on the freshness lifetime of a negative response (a 4xx status).
const MAX_NEGATIVE_LIFETIME: Duration = Duration::from_secs(5);

/// Cache section of a policy, in the form that freshness is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePolicy {
    /// Longest time for which an entry is fresh.
    pub ttl: Duration,
    /// Time after the end of the freshness lifetime for which an entry may be served while a new response is
    /// fetched in the background.
    pub stale_while_revalidate: Duration,
    /// Time after the end of the freshness lifetime for which an entry may be served if no new response can
    /// be fetched.
    pub stale_if_error: Duration,
    /// Largest number of entries in memory.
    pub max_entries: u64,
}

impl From<&phase6_policy::Cache> for CachePolicy {
    fn from(policy: &phase6_policy::Cache) -> Self {
        Self {
            ttl: policy.ttl.get(),
            stale_while_revalidate: policy.stale_while_revalidate.get(),
            stale_if_error: policy.stale_if_error.get(),
            max_entries: policy.max_entries.max(1) as u64,
        }
    }
}

impl CachePolicy {
    /// Returns the age at which no request can use an entry any more, counted from the start of its fetch.
    pub(crate) fn max_useful_age(&self, negative: bool) -> Duration {
        if negative {
            return self.ttl.min(MAX_NEGATIVE_LIFETIME);
        }
        self.ttl + self.stale_while_revalidate.max(self.stale_if_error)
    }

    /// Returns the freshness lifetime of a response that states `stated`, before jitter.
    pub(crate) fn lifetime(&self, stated: Option<Duration>, negative: bool) -> Duration {
        let lifetime = stated.map_or(self.ttl, |stated| stated.min(self.ttl));
        if negative { lifetime.min(MAX_NEGATIVE_LIFETIME) } else { lifetime }
    }

    /// Returns true if no stored response could ever be served.
    pub fn is_off(&self) -> bool {
        self.ttl.is_zero() && self.stale_while_revalidate.is_zero() && self.stale_if_error.is_zero()
    }
}

/// Use that a request may make of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The response may be served as it is.
    Fresh {
        /// Remaining freshness lifetime.
        left: Duration,
    },
    /// The response may be served while a new one is fetched in the background.
    StaleWhileRevalidate {
        /// Time since the end of the freshness lifetime.
        stale_for: Duration,
    },
    /// The response may be served only if no new one can be fetched.
    StaleIfError {
        /// Time since the end of the freshness lifetime.
        stale_for: Duration,
    },
    /// The response must not be served.
    Expired,
}

/// Returns the freshness of a response that was stored `age` ago.
///
/// `jitter` in (0, 1] is the share of its freshness lifetime that this entry gets: it only ever shortens the
/// lifetime, so that entries stored together do not expire together.
pub fn freshness(
    response: &ResponseDirectives,
    negative: bool,
    jitter: f64,
    age: Duration,
    policy: &CachePolicy,
    request: &RequestDirectives,
) -> Freshness {
    let age = age + response.received_age;
    let lifetime = policy.lifetime(response.lifetime, negative);
    let lifetime =
        Duration::from_millis((lifetime.as_millis() as u64 as f64 * jitter.clamp(0.0, 1.0)) as u64);
    let left = lifetime.saturating_sub(age);
    let stale_for = age.saturating_sub(lifetime);
    let is_accepted = !request.reload
        && request.max_age.is_none_or(|max_age| age <= max_age)
        && request.min_fresh.is_none_or(|min_fresh| left >= min_fresh);
    if is_accepted && !left.is_zero() {
        return Freshness::Fresh { left };
    }
    if response.must_revalidate || negative {
        return Freshness::Expired;
    }
    let allowed =
        |stated: Option<Duration>, granted: Duration| stated.map_or(granted, |own| own.min(granted));
    // A client that limits the age or freshness does not accept a stale response (RFC 9111, section 5.2.1).
    let accepts_stale = !request.reload && request.max_age.is_none() && request.min_fresh.is_none();
    if accepts_stale && stale_for < allowed(response.stale_while_revalidate, policy.stale_while_revalidate) {
        return Freshness::StaleWhileRevalidate { stale_for };
    }
    if stale_for < allowed(response.stale_if_error, policy.stale_if_error) {
        return Freshness::StaleIfError { stale_for };
    }
    Freshness::Expired
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(ttl: u64, stale_while_revalidate: u64, stale_if_error: u64) -> CachePolicy {
        CachePolicy {
            ttl: secs(ttl),
            stale_while_revalidate: secs(stale_while_revalidate),
            stale_if_error: secs(stale_if_error),
            max_entries: 10,
        }
    }

    fn response(lifetime: Option<u64>) -> ResponseDirectives {
        ResponseDirectives {
            lifetime: lifetime.map(Duration::from_secs),
            max_age: None,
            public: false,
            must_revalidate: false,
            stale_while_revalidate: None,
            stale_if_error: None,
            received_age: Duration::ZERO,
            vary: vec![],
        }
    }

    fn at(age: u64, response: &ResponseDirectives, policy: &CachePolicy) -> Freshness {
        freshness(response, false, 1.0, secs(age), policy, &RequestDirectives::default())
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn an_entry_passes_through_all_four_states_as_it_ages() {
        let (response, policy) = (response(None), policy(5, 2, 60));
        assert_eq!(at(0, &response, &policy), Freshness::Fresh { left: secs(5) });
        assert_eq!(at(4, &response, &policy), Freshness::Fresh { left: secs(1) });
        assert_eq!(at(5, &response, &policy), Freshness::StaleWhileRevalidate { stale_for: secs(0) });
        assert_eq!(at(7, &response, &policy), Freshness::StaleIfError { stale_for: secs(2) });
        assert_eq!(at(65, &response, &policy), Freshness::Expired);
    }

    #[test]
    fn ttl_expiration_works() {
        assert_eq!(at(5, &response(None), &policy(5, 0, 0)), Freshness::Expired);
    }

    #[test]
    fn a_shorter_ttl_applies_to_stored_entries() {
        let response = response(None);
        assert!(matches!(at(30, &response, &policy(60, 0, 0)), Freshness::Fresh { .. }));
        assert_eq!(at(30, &response, &policy(10, 0, 0)), Freshness::Expired);
    }

    #[test]
    fn an_entry_is_never_fresh_under_a_ttl_of_zero() {
        assert_eq!(at(0, &response(None), &policy(0, 0, 0)), Freshness::Expired);
    }

    #[test]
    fn a_response_may_shorten_the_lifetime_of_the_policy_but_not_extend_it() {
        assert_eq!(at(0, &response(Some(2)), &policy(5, 0, 0)), Freshness::Fresh { left: secs(2) });
        assert_eq!(at(0, &response(Some(50)), &policy(5, 0, 0)), Freshness::Fresh { left: secs(5) });
    }

    #[test]
    fn a_must_revalidate_response_is_never_served_stale() {
        let response = ResponseDirectives { must_revalidate: true, ..response(None) };
        assert_eq!(at(6, &response, &policy(5, 60, 60)), Freshness::Expired);
    }

    #[test]
    fn a_client_may_demand_a_fresher_response() {
        let (response, policy) = (response(None), policy(10, 10, 60));
        let none = RequestDirectives::default;
        let at = |age, request| freshness(&response, false, 1.0, secs(age), &policy, &request);
        let fresh = |request| at(4, request);
        assert!(matches!(
            fresh(RequestDirectives { reload: true, ..none() }),
            Freshness::StaleIfError { .. }
        ));
        assert!(matches!(
            fresh(RequestDirectives { max_age: Some(secs(3)), ..none() }),
            Freshness::StaleIfError { .. }
        ));
        assert!(matches!(
            fresh(RequestDirectives { min_fresh: Some(secs(8)), ..none() }),
            Freshness::StaleIfError { .. }
        ));
        assert!(matches!(
            fresh(RequestDirectives { max_age: Some(secs(4)), ..none() }),
            Freshness::Fresh { .. }
        ));
        let stale = |request| at(14, request);
        assert!(matches!(stale(none()), Freshness::StaleWhileRevalidate { .. }));
        assert!(matches!(
            stale(RequestDirectives { max_age: Some(secs(99)), ..none() }),
            Freshness::StaleIfError { .. }
        ));
    }

    #[test]
    fn a_negative_response_is_fresh_for_at_most_five_seconds() {
        let none = RequestDirectives::default();
        let negative = |age| freshness(&response(None), true, 1.0, secs(age), &policy(60, 60, 60), &none);
        assert_eq!(negative(1), Freshness::Fresh { left: secs(4) });
        assert_eq!(negative(5), Freshness::Expired);
    }

    proptest! {
        #[test]
        fn no_entry_is_served_past_the_age_that_policy_and_response_allow(
            age in 0..200_u64, received_age in 0..20_u64, stated in proptest::option::of(0..100_u64),
            ttl in 0..100_u64, revalidate in 0..50_u64, error in 0..50_u64, jitter in 0.0..=1.0_f64,
        ) {
            let response = ResponseDirectives { received_age: secs(received_age), ..response(stated) };
            let policy = policy(ttl, revalidate, error);
            let total = age + received_age;
            match freshness(&response, false, jitter, secs(age), &policy, &RequestDirectives::default()) {
                Freshness::Fresh { .. } => {
                    prop_assert!(total < ttl && stated.is_none_or(|stated| total < stated));
                }
                Freshness::StaleWhileRevalidate { .. } => prop_assert!(total < ttl + revalidate),
                Freshness::StaleIfError { .. } => prop_assert!(total < ttl + error),
                Freshness::Expired => {}
            }
        }
    }
}
