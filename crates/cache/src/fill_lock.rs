//! Lock by which one of several replicas fetches a response that all of them need. Pure, with an explicit
//! clock.
//!
//! ```text
//!   not held    -> the first replica to ask acquires the lock, renews it while it fetches, and releases it
//!                  with the outcome
//!   held        -> the others wait for the outcome, without polling
//!   invalidated -> the first of the waiting replicas acquires the lock for the next fetch
//! ```
//!
//! [`FillLock`] is the lock's shared state, and behaves as the scripts in `remote/` do; [`Search`] is the
//! procedure of one replica that looks for the response. A lock that is not renewed, because its holder died,
//! expires.

use std::time::Duration;

/// Time after which a lock that is not renewed expires. Also the longest wait for one outcome.
pub const LOCK_TTL: Duration = Duration::from_secs(3);
/// Time between two renewals.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that a replica waits for others in total, however long they work on the response.
pub const MAX_WAIT: Duration = Duration::from_mins(1);

/// Shared state of the lock on fetching one response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillLock {
    lease: Option<Lease>,
    /// End of the longest wait for the outcome, in milliseconds.
    awaited_until_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    replica: u64,
    until_ms: u64,
}

impl FillLock {
    /// Acquires the lock for `replica` and returns true, or returns false and records that `replica` waits
    /// for the outcome. Both last for `ttl`.
    pub fn try_acquire(&mut self, replica: u64, ttl: Duration, now_ms: u64) -> bool {
        let until_ms = now_ms + ttl.as_millis() as u64;
        if self.holder(now_ms).is_some() {
            self.awaited_until_ms = until_ms;
            return false;
        }
        self.lease = Some(Lease { replica, until_ms });
        true
    }

    /// Extends the lock to `ttl` from now, if `replica` holds it. Returns true if it does.
    pub fn renew(&mut self, replica: u64, ttl: Duration, now_ms: u64) -> bool {
        let is_holder = self.holder(now_ms) == Some(replica);
        if is_holder {
            self.lease = Some(Lease { replica, until_ms: now_ms + ttl.as_millis() as u64 });
        }
        is_holder
    }

    /// Releases the lock, if `replica` holds it. Returns true if others wait for the outcome, which has to be
    /// published then.
    pub fn release(&mut self, replica: u64, now_ms: u64) -> bool {
        let is_holder = self.holder(now_ms) == Some(replica);
        if is_holder {
            self.lease = None;
        }
        is_holder && std::mem::take(&mut self.awaited_until_ms) > now_ms
    }

    fn holder(&self, now_ms: u64) -> Option<u64> {
        self.lease.filter(|lease| lease.until_ms > now_ms).map(|lease| lease.replica)
    }
}

/// Condition under which a lookup also tries to acquire the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockRequest {
    /// The lookup never acquires the lock.
    Never,
    /// The lookup acquires the lock if no response is stored.
    IfMissing,
    /// The lookup acquires the lock even if a response is stored.
    Always,
}

/// Outcome of a fetch under the lock, published at its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillOutcome {
    /// The response is stored, if it can be shared.
    Filled,
    /// The response was invalidated while it was fetched.
    Invalidated,
}

/// Result of a lookup in the shared state.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookupResult {
    /// State of the stored response.
    pub stored: StoredState,
    /// Holder of the lock.
    pub holder: Holder,
}

/// State of the response in the shared store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredState {
    /// No response is stored, or one that the request cannot use.
    #[default]
    Unusable,
    /// A response is stored that was invalidated since the start of its fetch.
    Invalidated,
    /// A response is stored that the request can use.
    Usable,
}

/// Holder of the lock, as a lookup found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holder {
    /// The lookup did not ask for the lock, or got no reply.
    #[default]
    Unknown,
    /// This replica holds the lock.
    ThisReplica,
    /// Another replica holds the lock.
    OtherReplica,
}

/// Next step of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Look up the response again.
    Lookup(LockRequest),
    /// Wait for the outcome of the other replica's fetch, at most [`LOCK_TTL`].
    Wait,
    /// End the search: the replica uses the response it found, or fetches one itself.
    Finish,
}

/// Search of one replica for a response in the shared store.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    may_wait: bool,
    lookups: u32,
}

impl Search {
    /// Starts a search; returns the lock request of its first lookup. A replica that would not receive the
    /// outcome of others must not wait, and does not acquire the lock either.
    pub fn start(may_wait: bool) -> (Self, LockRequest) {
        let request = if may_wait { LockRequest::IfMissing } else { LockRequest::Never };
        (Self { may_wait, lookups: 0 }, request)
    }

    /// Returns the step after a lookup, `elapsed` after the start of the search.
    pub fn after_lookup(&mut self, result: LookupResult, elapsed: Duration) -> NextStep {
        self.lookups += 1;
        match (result.stored, result.holder) {
            (StoredState::Usable, _) | (_, Holder::ThisReplica) => NextStep::Finish,
            (_, Holder::OtherReplica) if elapsed > MAX_WAIT => NextStep::Finish,
            (_, Holder::OtherReplica) => NextStep::Wait,
            // The lookup found a response that cannot be used and therefore did not ask for the lock. Another
            // replica may be replacing that response; a lookup that asks for the lock finds out.
            (stored, Holder::Unknown)
                if self.may_wait && (self.lookups == 1 || stored == StoredState::Invalidated) =>
            {
                NextStep::Lookup(LockRequest::Always)
            }
            (_, Holder::Unknown) => NextStep::Finish,
        }
    }

    /// Returns the lock request of the lookup after a wait; `outcome` is `None` if the wait timed out.
    ///
    /// After [`FillOutcome::Filled`] the lookup never asks for the lock: if it finds no response, the
    /// response cannot be shared, and every replica has to fetch for itself. After
    /// [`FillOutcome::Invalidated`] one of the waiting replicas acquires the lock for the next fetch. After a
    /// timeout the other replica either still holds the lock, or has lost it.
    pub fn after_wait(&self, outcome: Option<FillOutcome>) -> LockRequest {
        if outcome == Some(FillOutcome::Filled) { LockRequest::Never } else { LockRequest::Always }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    #[test]
    fn the_first_replica_holds_the_lock_until_it_releases_it_to_those_that_wait() {
        let mut lock = FillLock::default();
        assert!(
            lock.try_acquire(1, TTL, 0) && !lock.try_acquire(2, TTL, 10) && !lock.try_acquire(1, TTL, 10)
        );
        assert!(!lock.release(2, 20), "replica 2 does not hold the lock");
        assert!(lock.release(1, 20) && !lock.release(1, 21), "the outcome is published once");
        assert!(lock.try_acquire(2, TTL, 30));
        assert!(!lock.release(2, 40), "no replica waits");
    }

    #[test]
    fn the_outcome_is_not_published_after_every_wait_has_timed_out() {
        let mut lock = FillLock::default();
        assert!(lock.try_acquire(1, TTL, 0) && !lock.try_acquire(2, TTL, 10) && lock.renew(1, TTL, 2_000));
        let mut earlier = lock;
        assert!(earlier.release(1, 3_009), "replica 2 still waits");
        assert!(!lock.release(1, 3_010), "replica 2 has timed out and looks up the response again");
    }

    #[test]
    fn a_lock_that_is_not_renewed_expires() {
        let mut lock = FillLock::default();
        assert!(lock.try_acquire(1, TTL, 0) && lock.renew(1, TTL, 1_000) && !lock.renew(2, TTL, 1_000));
        assert!(!lock.try_acquire(2, TTL, 3_999) && lock.try_acquire(2, TTL, 4_000));
        assert!(!lock.renew(1, TTL, 4_001) && !lock.release(1, 4_001), "replica 2 holds the lock now");
    }

    #[test]
    fn a_search_finishes_with_a_response_or_the_lock_and_otherwise_waits_for_the_holder() {
        let result = |stored, holder| LookupResult { stored, holder };
        let (mut search, request) = Search::start(true);
        assert_eq!(request, LockRequest::IfMissing);
        for (result, next) in [
            (result(StoredState::Usable, Holder::Unknown), NextStep::Finish),
            (result(StoredState::Unusable, Holder::ThisReplica), NextStep::Finish),
            (result(StoredState::Unusable, Holder::OtherReplica), NextStep::Wait),
            (result(StoredState::Usable, Holder::OtherReplica), NextStep::Finish),
            (result(StoredState::Unusable, Holder::Unknown), NextStep::Lookup(LockRequest::Always)),
        ] {
            let mut search = search;
            assert_eq!(search.after_lookup(result, MAX_WAIT), next, "{result:?}");
        }
        let held = result(StoredState::Unusable, Holder::OtherReplica);
        assert_eq!(search.after_lookup(held, MAX_WAIT), NextStep::Wait);
        let outcomes = [Some(FillOutcome::Filled), Some(FillOutcome::Invalidated), None];
        assert_eq!(
            outcomes.map(|outcome| search.after_wait(outcome)),
            [LockRequest::Never, LockRequest::Always, LockRequest::Always]
        );
        assert_eq!(
            search.after_lookup(result(StoredState::Invalidated, Holder::Unknown), Duration::ZERO),
            NextStep::Lookup(LockRequest::Always),
            "an invalidated response is fetched once more"
        );
        assert_eq!(
            search.after_lookup(LookupResult::default(), Duration::ZERO),
            NextStep::Finish,
            "the response cannot be shared"
        );
        let late = MAX_WAIT + Duration::from_nanos(1);
        assert_eq!(search.after_lookup(held, late), NextStep::Finish);
        let (mut without_wait, request) = Search::start(false);
        assert_eq!(
            (request, without_wait.after_lookup(LookupResult::default(), Duration::ZERO)),
            (LockRequest::Never, NextStep::Finish)
        );
    }
}
