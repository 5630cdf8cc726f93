//! What a lease lets be decided without it: one word that any number of threads can change at once, without
//! a lock. Pure.
//!
//! ```text
//!   tokens until t    -> one less, admit              (at a quarter the lease is asked, which asks for more)
//!   no tokens until t -> refuse
//!   else              -> ask the lease
//! ```
//!
//! Whoever works on the lease takes the purse away first, settles what was spent of it, and lends another one
//! when it is done. Time is told in steps of 2^20 ns; what the word says ends up to one of them early, and never
//! late.

use super::Lease;
use crate::gcra::{Decision, Limit};

const TOKENS_AT: u32 = 44;
const MOST_TOKENS: u32 = (1 << 20) - 1;
const NONE: u64 = 1 << 43;
const EDITION: u64 = ((1 << 11) - 1) << 32;
const STEP: u32 = 20;

/// The word. Of 64 bits, 20 count tokens, 1 says that there are none, 11 tell one purse from the next, and 32
/// say until when. The default knows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse(u64);

/// What a purse says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is admitted, if this is the purse from now on.
    Admit(Purse),
    /// It is refused.
    Refuse,
}

/// What is lent.
#[derive(Clone, Copy, Debug)]
pub struct Loan {
    /// To decide by, as long as this is the limit.
    pub purse: Purse,
    /// The limit.
    pub limit: Limit,
    /// Tokens that there are beside those of the purse, as far as is known.
    pub beside: u32,
    /// When there will be one for those who are refused.
    pub told_until_ns: u64,
}

impl Purse {
    fn new(tokens: u32, none: bool, until_ns: u64) -> Self {
        let tokens = u64::from(tokens.min(MOST_TOKENS)) << TOKENS_AT;
        Self(tokens | if none { NONE } else { 0 } | u64::from(steps(until_ns)))
    }

    /// The purse of a word.
    pub fn of(word: u64) -> Self {
        Self(word)
    }

    /// The word.
    pub fn word(self) -> u64 {
        self.0
    }

    /// The same, told from the one that was there before.
    #[must_use]
    pub fn following(self, before: Self) -> Self {
        let edition = (before.0 & EDITION).wrapping_add(1 << 32) & EDITION;
        Self(self.0 & !EDITION | edition)
    }

    /// Whether it says nothing, at no time.
    pub fn is_nothing(self) -> bool {
        self.tokens() == 0 && self.0 & NONE == 0
    }

    /// Tokens that are left in it.
    pub fn tokens(self) -> u32 {
        (self.0 >> TOKENS_AT) as u32
    }

    /// What it says about a request. None: nothing, or nothing any more at `now_ns`.
    pub fn decide(self, now_ns: u64) -> Option<Said> {
        // Of a clock that goes round: what is said holds for seconds.
        let left = (self.0 as u32).wrapping_sub(steps(now_ns)).cast_signed();
        if left <= 0 {
            None
        } else if self.tokens() > 0 {
            Some(Said::Admit(Self(self.0 - (1 << TOKENS_AT))))
        } else {
            (self.0 & NONE != 0).then_some(Said::Refuse)
        }
    }
}

fn steps(ns: u64) -> u32 {
    (ns >> STEP) as u32
}

impl Lease {
    /// What may be decided without this lease from `now_ns` on, until something is done with it again. None:
    /// nothing.
    pub fn lend(&self, now_ns: u64) -> Option<Loan> {
        let holds = self.held > 0 && self.ends_ns > now_ns;
        let purse = if holds && self.gap_ns == 0 && self.due_ns <= now_ns {
            // Whoever finds the purse empty spends the token with which more have to be asked for.
            let kept = if self.asking.is_none() && self.granted >= 4 { self.granted / 4 + 1 } else { 0 };
            Purse::new(self.held.saturating_sub(kept), false, self.ends_ns)
        } else {
            let until = if holds { self.due_ns } else { self.none_until_ns };
            Purse::new(0, until > now_ns, until)
        };
        let beside = (self.held - purse.tokens()).saturating_add(self.left);
        let told_until_ns = if holds { self.due_ns } else { self.told_until_ns };
        (!purse.is_nothing()).then_some(Loan { purse, limit: self.limit, beside, told_until_ns })
    }

    /// Takes back what was lent: so many tokens were spent of it, and so many requests refused, the last one
    /// at `seen_ns`.
    pub fn settle(&mut self, spent: u32, refused: u32, seen_ns: u64) {
        self.held = self.held.saturating_sub(spent);
        self.used += u64::from(spent);
        self.count(spent.saturating_add(refused), seen_ns);
    }

    /// What was lent goes on, and was last asked for at `seen_ns`.
    pub fn was_seen(&mut self, seen_ns: u64) {
        self.seen_ns = self.seen_ns.max(seen_ns);
    }
}

/// Says that a request under `limit` is admitted and so many tokens are left.
pub(crate) fn admitted(limit: &Limit, remaining: u64) -> Decision {
    let missing = (limit.capacity() - remaining as f64).max(0.0);
    Decision::Admit { remaining, full_in: limit.time_for(missing) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_admits_as_many_as_it_has_tokens_until_it_ends_and_then_says_nothing() {
        let mut purse = Purse::new(3, false, SECOND);
        for left in [2, 1, 0] {
            assert!(purse.decide(SECOND).is_none());
            let Some(Said::Admit(next)) = purse.decide(SECOND / 2) else { panic!("{purse:?}") };
            assert_eq!(next.tokens(), left);
            purse = next;
        }
        assert_eq!(purse.decide(SECOND / 2), None, "an empty purse is no refusal");
        assert!(purse.is_nothing());
    }

    #[test]
    fn it_refuses_where_there_are_no_tokens_until_there_may_be_some() {
        let purse = Purse::new(0, true, SECOND);
        assert!(!purse.is_nothing());
        assert_eq!((purse.decide(0), purse.decide(SECOND)), (Some(Said::Refuse), None));
        assert_eq!(Purse::new(0, false, SECOND).decide(0), None);
        assert_eq!(Purse::default().decide(0), None);
    }

    #[test]
    fn it_has_no_more_tokens_than_it_can_count() {
        assert_eq!(Purse::new(MOST_TOKENS, true, 0).tokens(), MOST_TOKENS);
        assert_eq!(Purse::new(u32::MAX, false, 0), Purse::new(MOST_TOKENS, false, 0));
    }

    #[test]
    fn one_is_never_the_one_before() {
        let (mut purse, said) = (Purse::new(7, false, SECOND), Purse::new(7, false, SECOND).decide(0));
        for _ in 0..5_000 {
            let next = Purse::new(7, false, SECOND).following(purse);
            assert_ne!(next, purse);
            assert_eq!((next.tokens(), next.decide(0).is_some()), (7, said.is_some()));
            assert_eq!(Purse::of(next.word()), next);
            purse = next;
        }
        let edition = |purse: Purse| purse.word() >> 32 & 0x7ff;
        let ends: Vec<u64> = (0..2_048)
            .map(|_| {
                purse = Purse::default().following(purse);
                edition(purse)
            })
            .collect();
        assert_eq!(
            ends.iter().collect::<std::collections::BTreeSet<_>>().len(),
            2_048,
            "it takes long to come round"
        );
    }

    proptest! {
        /// Also after years.
        #[test]
        fn it_ends_less_than_a_step_early_and_never_late(
            until in 1_u64 << 22..1 << 62, tokens in 0..3_u32, left in 1_u64..10_000_000_000, late in 0_u64..10_000_000_000,
        ) {
            let purse = Purse::new(tokens, tokens == 0, until);
            prop_assert_eq!(purse.decide(until + late), None);
            let speaks = purse.decide(until.saturating_sub(left)).is_some();
            prop_assert!(speaks || left < 1 << STEP, "{left} ns before");
        }
    }
}
