//! Whether a replica goes by the shared state or by its own share. Pure, with an explicit clock.
//!
//! ```text
//!   shared --call failed--> gone --call answered--> settling --as long as the outage, at most 0.9 s--> shared
//! ```
//!
//! A replica that has just found the shared state again does not draw on it yet: it tells what was admitted
//! without it, and goes on by its share until the other replicas have had time to tell theirs. Otherwise the
//! first one back would find a bucket that looks full of tokens which others have spent.

use std::sync::atomic::{AtomicU64, Ordering};

/// While the shared state is gone, it is tried again no more often than this, in nanoseconds.
const PAUSE_NS: u64 = 100_000_000;
/// Longest time of settling. With the time that it takes to notice, recovery stays below two seconds.
const SETTLE_NS: u64 = 900_000_000;
/// The shared state is gone.
const GONE: u64 = u64::MAX;

/// What one replica knows of its way to the shared state.
#[derive(Debug, Default)]
pub struct Contact {
    /// From then on it is drawn on.
    shared_from_ns: AtomicU64,
    /// When the outage began.
    since_ns: AtomicU64,
    /// Not before then is another call tried.
    again_ns: AtomicU64,
}

impl Contact {
    /// The last call failed.
    pub fn is_gone(&self) -> bool {
        self.shared_from_ns.load(Ordering::Relaxed) == GONE
    }

    /// It is gone, or not drawn on yet.
    pub fn is_alone(&self, now_ns: u64) -> bool {
        self.shared_from_ns.load(Ordering::Relaxed) > now_ns
    }

    /// Whether it is gone, and for long enough to see whether it is back.
    pub fn may_try(&self, now_ns: u64) -> bool {
        self.is_gone() && self.again_ns.load(Ordering::Relaxed) <= now_ns
    }

    /// A call had no answer. True: the first of an outage.
    pub fn failed(&self, now_ns: u64) -> bool {
        self.again_ns.store(now_ns + PAUSE_NS, Ordering::Relaxed);
        let was_alone = self.is_alone(now_ns);
        let was_gone = self.shared_from_ns.swap(GONE, Ordering::Relaxed) == GONE;
        if !was_alone {
            self.since_ns.store(now_ns, Ordering::Relaxed);
        }
        !was_gone
    }

    /// A call was answered. True: the first after an outage.
    pub fn answered(&self, now_ns: u64) -> bool {
        if !self.is_gone() {
            return false;
        }
        let outage = now_ns.saturating_sub(self.since_ns.load(Ordering::Relaxed));
        self.shared_from_ns.store(now_ns + outage.min(SETTLE_NS), Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn after_a_failure_calls_pause_and_after_an_answer_the_share_goes_on_for_as_long_as_the_outage() {
        let contact = Contact::default();
        assert!(!contact.is_alone(0) && !contact.may_try(0));
        assert!(contact.failed(1_000 * MS) && !contact.failed(1_010 * MS), "an outage begins once");
        assert!(contact.is_alone(1_011 * MS) && !contact.may_try(1_109 * MS) && contact.may_try(1_110 * MS));
        assert!(contact.answered(1_200 * MS) && !contact.answered(1_201 * MS), "and ends once");
        assert!(!contact.is_gone() && !contact.may_try(1_400 * MS));
        assert!(contact.is_alone(1_399 * MS) && !contact.is_alone(1_400 * MS));
    }

    #[test]
    fn a_long_outage_is_followed_by_less_than_a_second_of_settling() {
        let contact = Contact::default();
        contact.failed(0);
        contact.answered(60_000 * MS);
        assert!(contact.is_alone(60_899 * MS) && !contact.is_alone(60_900 * MS));
    }

    #[test]
    fn a_failure_while_settling_belongs_to_the_same_outage() {
        let contact = Contact::default();
        contact.failed(0);
        contact.answered(400 * MS);
        contact.failed(500 * MS);
        contact.answered(600 * MS);
        assert!(contact.is_alone(1_199 * MS) && !contact.is_alone(1_200 * MS));
    }
}
