//! Availability of the shared state, as one replica sees it. Pure, with an explicit clock.
//!
//! ```text
//!   available --call failed--> unavailable --call succeeded--> settling
//!       ^                                                         |
//!       '------- after as long as the outage, at most 0.9 s ------'
//! ```
//!
//! A replica that finds the shared state available again settles first: it reports the tokens that it
//! admitted during the outage and keeps using its local fallback until the other replicas have had time to
//! report theirs. Otherwise the first replica to return would draw tokens that others have already spent.

use std::sync::atomic::{AtomicU64, Ordering};

/// Minimum time between two attempts to reach an unavailable shared state, in nanoseconds.
const RETRY_INTERVAL_NS: u64 = 100_000_000;
/// Maximum time from the end of an outage to the end of settling, in nanoseconds. Together with the time to
/// detect the end of the outage, recovery takes less than two seconds.
const MAX_SETTLING_NS: u64 = 900_000_000;
/// Value of `available_from_ns` while the shared state is unavailable.
const UNAVAILABLE: u64 = u64::MAX;

/// Availability of the shared state to one replica.
#[derive(Debug, Default)]
pub struct BackendState {
    /// Time from which on tokens may be drawn from the shared state, in nanoseconds.
    available_from_ns: AtomicU64,
    /// Start of the current or last outage, in nanoseconds.
    outage_start_ns: AtomicU64,
    /// Time before which an unavailable shared state is not tried again, in nanoseconds.
    next_attempt_ns: AtomicU64,
}

impl BackendState {
    /// Returns true if the last call failed.
    pub fn is_unavailable(&self) -> bool {
        self.available_from_ns.load(Ordering::Relaxed) == UNAVAILABLE
    }

    /// Returns true if the local fallback decides: the shared state is unavailable or still settling.
    pub fn uses_local_fallback(&self, now_ns: u64) -> bool {
        self.available_from_ns.load(Ordering::Relaxed) > now_ns
    }

    /// Returns true if the shared state is unavailable and may be tried again.
    pub fn may_retry(&self, now_ns: u64) -> bool {
        self.is_unavailable() && self.next_attempt_ns.load(Ordering::Relaxed) <= now_ns
    }

    /// Records a call that failed or timed out. Returns true if it is the first failure of an outage.
    pub fn call_failed(&self, now_ns: u64) -> bool {
        self.next_attempt_ns.store(now_ns + RETRY_INTERVAL_NS, Ordering::Relaxed);
        let in_outage = self.uses_local_fallback(now_ns);
        let was_unavailable = self.available_from_ns.swap(UNAVAILABLE, Ordering::Relaxed) == UNAVAILABLE;
        if !in_outage {
            self.outage_start_ns.store(now_ns, Ordering::Relaxed);
        }
        !was_unavailable
    }

    /// Records a call that succeeded. Returns true if it is the first one after an outage.
    pub fn call_succeeded(&self, now_ns: u64) -> bool {
        if !self.is_unavailable() {
            return false;
        }
        let outage_ns = now_ns.saturating_sub(self.outage_start_ns.load(Ordering::Relaxed));
        self.available_from_ns.store(now_ns + outage_ns.min(MAX_SETTLING_NS), Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn retries_pause_after_a_failure_and_settling_takes_as_long_as_the_outage() {
        let state = BackendState::default();
        assert!(!state.uses_local_fallback(0) && !state.may_retry(0));
        assert!(state.call_failed(1_000 * MS) && !state.call_failed(1_010 * MS), "an outage starts once");
        assert!(state.uses_local_fallback(1_011 * MS));
        assert!(!state.may_retry(1_109 * MS) && state.may_retry(1_110 * MS));
        assert!(state.call_succeeded(1_200 * MS) && !state.call_succeeded(1_201 * MS), "an outage ends once");
        assert!(!state.is_unavailable() && !state.may_retry(1_400 * MS));
        assert!(state.uses_local_fallback(1_399 * MS) && !state.uses_local_fallback(1_400 * MS));
    }

    #[test]
    fn settling_after_a_long_outage_takes_less_than_a_second() {
        let state = BackendState::default();
        state.call_failed(0);
        state.call_succeeded(60_000 * MS);
        assert!(state.uses_local_fallback(60_899 * MS) && !state.uses_local_fallback(60_900 * MS));
    }

    #[test]
    fn a_failure_while_settling_continues_the_same_outage() {
        let state = BackendState::default();
        state.call_failed(0);
        state.call_succeeded(400 * MS);
        state.call_failed(500 * MS);
        state.call_succeeded(600 * MS);
        assert!(state.uses_local_fallback(1_199 * MS) && !state.uses_local_fallback(1_200 * MS));
    }
}
