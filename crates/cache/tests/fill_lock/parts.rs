//! State of the simulated replicas, and their messages.

use phase6_cache::fill_lock::{FillOutcome, LockRequest, LookupResult, Search};

#[derive(Clone, Copy, Debug)]
pub enum Activity {
    Idle,
    /// A lookup is on its way.
    LookingUp {
        search: Search,
        started_at: u64,
    },
    /// The replica waits for an outcome until it arrives, or until the time limit.
    Waiting {
        search: Search,
        started_at: u64,
        until: u64,
    },
    Fetching {
        version: u64,
        until: u64,
    },
    /// The response is on its way to the shared store.
    Storing,
}

#[derive(Debug)]
pub struct Replica {
    /// Id that no earlier replica had.
    pub id: u64,
    pub activity: Activity,
    /// Outcome received since the replica registered as a waiter.
    pub outcome: Option<FillOutcome>,
    /// Version of the response in its memory; 0 for none.
    pub version: u64,
}

impl Replica {
    pub fn new(id: u64) -> Self {
        Self { id, activity: Activity::Idle, outcome: None, version: 0 }
    }
}

/// Lock that a replica holds, or may hold.
#[derive(Debug)]
pub struct HeldLock {
    pub replica: u64,
    pub renewed_at: u64,
    pub release: Option<PendingRelease>,
}

impl HeldLock {
    pub fn new(replica: u64, now: u64) -> Self {
        Self { replica, renewed_at: now, release: None }
    }
}

/// Release of a lock, attempted repeatedly.
#[derive(Clone, Copy, Debug)]
pub struct PendingRelease {
    pub outcome: FillOutcome,
    pub attempts_left: u64,
    pub next_attempt_at: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Message {
    Lookup {
        replica: u64,
        request: LockRequest,
    },
    LookupReply {
        replica: u64,
        version: u64,
        result: LookupResult,
    },
    LookupFailed {
        replica: u64,
        request: LockRequest,
    },
    Renew {
        replica: u64,
    },
    Store {
        replica: u64,
        version: u64,
    },
    StoreReply {
        replica: u64,
    },
    Release {
        replica: u64,
        outcome: FillOutcome,
    },
    ReleaseReply {
        replica: u64,
    },
    /// The published outcome, to every replica that is alive when it arrives.
    Outcome(FillOutcome),
}
