//! The credit that a lease publishes: one word by which any number of threads decide on requests without a
//! lock. Pure, with an explicit clock.
//!
//! ```text
//!   tokens, not expired      -> take one, admit   (at a quarter the lease decides and requests more)
//!   refusing, not expired    -> refuse
//!   otherwise                -> the lease decides
//! ```
//!
//! Before the lease is used, its published word is withdrawn and the spent tokens are reconciled; afterwards
//! a new word is published. Times in a word have a resolution of 2^20 ns (about 1 ms). A word expires up to
//! one such step early, never late.

use super::{Lease, MIN_GRANT_FOR_EARLY_REPORT, State};
use crate::gcra::Limit;

const TOKENS_SHIFT: u32 = 44;
const MAX_TOKENS: u32 = (1 << 20) - 1;
const REFUSES: u64 = 1 << 43;
const VERSION: u64 = ((1 << 11) - 1) << 32;
const TIME_STEP_BITS: u32 = 20;

/// Published credit in 64 bits: 20 bits count tokens, 1 bit marks a refusal, 11 bits hold a version that
/// differs from that of the previous word, and 32 bits hold the expiry time. The default is an empty word,
/// which decides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreditWord(u64);

/// The decision of a credit word on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreditDecision {
    /// The request is admitted, provided that this word replaces the current one.
    Admit(CreditWord),
    /// The request is refused.
    Refuse,
}

/// A credit word and the data needed to report its decisions.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    /// Word that decides while `limit` is in force.
    pub word: CreditWord,
    /// Limit under which the word was published.
    pub limit: Limit,
    /// Known remaining tokens that are not in the word.
    pub remaining: u32,
    /// Time at which a refused client may retry, in nanoseconds.
    pub retry_at_ns: u64,
}

impl CreditWord {
    fn new(tokens: u32, refuses: bool, expires_ns: u64) -> Self {
        let tokens = u64::from(tokens.min(MAX_TOKENS)) << TOKENS_SHIFT;
        Self(tokens | if refuses { REFUSES } else { 0 } | u64::from(time_steps(expires_ns)))
    }

    /// Creates a word from its bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the bits of the word.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Returns this word with a version that differs from that of `previous`.
    #[must_use]
    pub fn with_version_after(self, previous: Self) -> Self {
        let version = (previous.0 & VERSION).wrapping_add(1 << 32) & VERSION;
        Self(self.0 & !VERSION | version)
    }

    /// Returns true if the word decides nothing at any time.
    pub fn is_empty(self) -> bool {
        self.tokens() == 0 && self.0 & REFUSES == 0
    }

    /// Number of tokens in the word.
    pub fn tokens(self) -> u32 {
        (self.0 >> TOKENS_SHIFT) as u32
    }

    /// Decides on a request at `now_ns`. Returns `None` if the word is empty or expired.
    pub fn decide(self, now_ns: u64) -> Option<CreditDecision> {
        // The 32-bit time wraps around, but a word is valid for seconds only.
        let left = (self.0 as u32).wrapping_sub(time_steps(now_ns)).cast_signed();
        if left <= 0 {
            None
        } else if self.tokens() > 0 {
            Some(CreditDecision::Admit(Self(self.0 - (1 << TOKENS_SHIFT))))
        } else {
            (self.0 & REFUSES != 0).then_some(CreditDecision::Refuse)
        }
    }
}

fn time_steps(ns: u64) -> u32 {
    (ns >> TIME_STEP_BITS) as u32
}

impl Lease {
    /// Returns the credit that may decide on requests from `now_ns` on, until the lease is used again. `None`
    /// if only the lease can decide.
    pub fn publish(&self, now_ns: u64) -> Option<Credit> {
        let (word, retry_at_ns) = match self.state(now_ns) {
            // Tokens reserved ahead become due one after another, so the lease spends each of them.
            State::Spendable if self.interval_ns > 0 => return None,
            State::Spendable => {
                // Withhold the last quarter and one more token: the request that finds the word empty spends
                // that token from the lease, which triggers a report.
                let triggers_report = self.in_flight.is_none() && self.granted >= MIN_GRANT_FOR_EARLY_REPORT;
                let withheld = if triggers_report { self.granted / 4 + 1 } else { 0 };
                let tokens = self.leased.saturating_sub(withheld);
                (CreditWord::new(tokens, false, self.expires_ns), self.due_ns)
            }
            State::Exhausted { until_ns, retry_at_ns } => (CreditWord::new(0, true, until_ns), retry_at_ns),
            State::Unknown => return None,
        };
        let remaining = (self.leased - word.tokens()).saturating_add(self.remaining);
        (!word.is_empty()).then_some(Credit { word, limit: self.limit, remaining, retry_at_ns })
    }

    /// Accounts for a withdrawn credit: `spent` tokens and `refused` requests since it was published, the
    /// last request at `last_request_ns`.
    pub fn reconcile(&mut self, spent: u32, refused: u32, last_request_ns: u64) {
        self.leased = self.leased.saturating_sub(spent);
        self.spent += u64::from(spent);
        self.demand.count(spent.saturating_add(refused), last_request_ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_word_admits_one_request_per_token_until_it_expires() {
        let mut word = CreditWord::new(3, false, SECOND);
        for left in [2, 1, 0] {
            assert!(word.decide(SECOND).is_none());
            let Some(CreditDecision::Admit(next)) = word.decide(SECOND / 2) else { panic!("{word:?}") };
            assert_eq!(next.tokens(), left);
            word = next;
        }
        assert_eq!(word.decide(SECOND / 2), None, "an empty word does not refuse");
        assert!(word.is_empty());
    }

    #[test]
    fn a_refusing_word_refuses_until_it_expires() {
        let word = CreditWord::new(0, true, SECOND);
        assert!(!word.is_empty());
        assert_eq!((word.decide(0), word.decide(SECOND)), (Some(CreditDecision::Refuse), None));
        assert_eq!(CreditWord::new(0, false, SECOND).decide(0), None);
        assert_eq!(CreditWord::default().decide(0), None);
    }

    #[test]
    fn a_word_holds_at_most_its_maximum_of_tokens() {
        assert_eq!(CreditWord::new(MAX_TOKENS, true, 0).tokens(), MAX_TOKENS);
        assert_eq!(CreditWord::new(u32::MAX, false, 0), CreditWord::new(MAX_TOKENS, false, 0));
    }

    #[test]
    fn consecutive_words_differ() {
        let (mut word, decision) =
            (CreditWord::new(7, false, SECOND), CreditWord::new(7, false, SECOND).decide(0));
        for _ in 0..5_000 {
            let next = CreditWord::new(7, false, SECOND).with_version_after(word);
            assert_ne!(next, word);
            assert_eq!((next.tokens(), next.decide(0).is_some()), (7, decision.is_some()));
            assert_eq!(CreditWord::from_bits(next.to_bits()), next);
            word = next;
        }
        let version = |word: CreditWord| word.to_bits() >> 32 & 0x7ff;
        let versions: Vec<u64> = (0..2_048)
            .map(|_| {
                word = CreditWord::default().with_version_after(word);
                version(word)
            })
            .collect();
        assert_eq!(
            versions.iter().collect::<std::collections::BTreeSet<_>>().len(),
            2_048,
            "all versions are used before one repeats"
        );
    }

    proptest! {
        /// Covers times at which the 32-bit time of a word has wrapped around.
        #[test]
        fn a_word_expires_less_than_one_step_early_and_never_late(
            until in 1_u64 << 22..1 << 62, tokens in 0..3_u32,
            left in 1_u64..10_000_000_000, late in 0_u64..10_000_000_000,
        ) {
            let word = CreditWord::new(tokens, tokens == 0, until);
            prop_assert_eq!(word.decide(until + late), None);
            let decides = word.decide(until.saturating_sub(left)).is_some();
            prop_assert!(decides || left < 1 << TIME_STEP_BITS, "expired {left} ns early");
        }
    }
}
