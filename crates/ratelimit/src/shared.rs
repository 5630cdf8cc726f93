//! Buckets that all replicas of a service share through Redis.
//!
//! ```text
//! request -> credit word of its key: decides without a lock in most cases
//!              '-- empty or expired --> lease of its key
//!                                         '-- unknown --> queue -> one script call for many keys
//!                                                                    -> grants -> waiting requests
//! ```
//!
//! * A request waits only for a key without local knowledge, and no longer than [`phase6_redis::CALL_LIMIT`].
//! * After a failed call no request waits: the local fallback decides according to `onBackendFailure`. When
//!   Redis is available again, each replica first reports the tokens that it spent meanwhile, and requests
//!   new ones after all replicas have had time to do so.
//! * The number of keys is bounded. A new key evicts the longest idle one of a sample, whose tokens return
//!   when its lease expires.

mod clock;
mod fast_path;
mod reporter;
mod table;

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use phase6_policy::BackendFailure;
use phase6_redis::{CALL_LIMIT, Redis};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Backend, BackendDecision, BucketConfig, BucketRef, backend_state::BackendState, gcra::Decision,
    lease::LeaseDecision,
};
use clock::Clock;
use table::{Entry, LeaseTable};

/// Maximum number of keys that wait for the next call.
const QUEUE_CAPACITY: usize = 8_192;
/// Retry time of a request that is refused because the shared state is unavailable.
const FALLBACK_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Receives the result of the next call for a key: the decision, or `None` if the grant did not serve this
/// request.
type GrantReceiver = oneshot::Receiver<Option<Decision>>;

/// Buckets shared through Redis. Clones are handles to the same buckets.
#[derive(Clone)]
pub struct SharedBuckets {
    inner: Arc<Inner>,
}

struct Inner {
    redis: Redis,
    clock: Clock,
    next_holder: AtomicU64,
    table: LeaseTable,
    /// Hashes of keys to report in the next call.
    queue: mpsc::Sender<u64>,
    backend: BackendState,
    calls: AtomicU64,
    failed_calls: AtomicU64,
    fallback: FallbackCounters,
}

/// Counters behind [`FallbackCounts`].
#[derive(Default)]
struct FallbackCounters {
    local_share: AtomicU64,
    allow: AtomicU64,
    deny: AtomicU64,
}

/// Number of requests decided without the shared state, by the policy's `onBackendFailure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FallbackCounts {
    /// Requests decided by this replica's share.
    pub local_share: u64,
    /// Requests admitted under `Allow`.
    pub allow: u64,
    /// Requests refused under `Deny`.
    pub deny: u64,
}

impl FallbackCounts {
    /// Number of requests under all modes.
    pub fn total(&self) -> u64 {
        self.local_share + self.allow + self.deny
    }
}

/// Figures of one replica's view of the shared buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedStats {
    /// Number of keys with a lease.
    pub leases: usize,
    /// Maximum number of keys with a lease.
    pub max_leases: usize,
    /// Number of calls to the shared state since the start.
    pub calls: u64,
    /// Number of calls that failed or timed out.
    pub failed_calls: u64,
    /// True if the last call failed.
    pub unavailable: bool,
    /// True if the local fallback decides: the shared state is unavailable, or was until a moment ago.
    pub local_fallback: bool,
    /// Requests decided without the shared state.
    pub fallback_decisions: FallbackCounts,
}

impl SharedBuckets {
    /// Creates buckets under the keys of `redis`, with room for at least `keys` keys. Requires a tokio
    /// runtime; the background tasks end with the last handle.
    pub fn new(redis: Redis, keys: usize) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_CAPACITY);
        let inner = Arc::new(Inner {
            redis,
            clock: Clock::start(),
            // A random start makes holders unique among all replicas at all times. 53 bits, because the
            // script handles numbers as doubles.
            next_holder: AtomicU64::new(rand::random::<u64>() >> 11),
            table: LeaseTable::with_capacity(keys),
            queue,
            backend: BackendState::default(),
            calls: AtomicU64::new(0),
            failed_calls: AtomicU64::new(0),
            fallback: FallbackCounters::default(),
        });
        tokio::spawn(reporter::run(Arc::downgrade(&inner), queued));
        tokio::spawn(reporter::maintain(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// Returns the current figures.
    pub fn stats(&self) -> SharedStats {
        let Inner { table, calls, failed_calls, backend, fallback, .. } = &*self.inner;
        SharedStats {
            leases: table.len(),
            max_leases: table.capacity(),
            calls: calls.load(Ordering::Relaxed),
            failed_calls: failed_calls.load(Ordering::Relaxed),
            unavailable: backend.is_unavailable(),
            local_fallback: backend.uses_local_fallback(self.inner.now_ns()),
            fallback_decisions: FallbackCounts {
                local_share: fallback.local_share.load(Ordering::Relaxed),
                allow: fallback.allow.load(Ordering::Relaxed),
                deny: fallback.deny.load(Ordering::Relaxed),
            },
        }
    }
}

impl Backend for SharedBuckets {
    fn decide(&self, bucket: &BucketRef<'_>, config: &BucketConfig) -> BackendDecision {
        let inner = &self.inner;
        if let Some(decision) = inner.table.decide(bucket.hash, &config.limit, &inner.clock) {
            return BackendDecision::Ready(decision);
        }
        let now = inner.now_ns();
        inner.table.with_entry(
            bucket,
            config,
            now,
            || inner.new_holder(),
            |entry| match entry.lease.decide(&config.limit, now, || inner.new_holder()) {
                LeaseDecision::Decided(decision) => {
                    if entry.lease.should_report(now) && !inner.backend.uses_local_fallback(now) {
                        inner.enqueue(bucket.hash, entry);
                    }
                    BackendDecision::Ready(decision)
                }
                LeaseDecision::Unknown => match inner.subscribe(bucket.hash, entry, now) {
                    Some(grant) => {
                        let (inner, hash, config) = (Arc::clone(inner), bucket.hash, *config);
                        BackendDecision::Pending(Box::pin(
                            async move { inner.wait(hash, &config, grant).await },
                        ))
                    }
                    None => BackendDecision::Ready(inner.decide_by_local_fallback(entry, config, now)),
                },
            },
        )
    }
}

impl Inner {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn new_holder(&self) -> u64 {
        self.next_holder.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a key to the next call. Returns false if the queue is full.
    fn enqueue(&self, hash: u64, entry: &mut Entry) -> bool {
        if !entry.queued {
            entry.queued = self.queue.try_send(hash).is_ok();
        }
        entry.queued
    }

    /// Adds a key to the next call and returns a receiver of its result. Returns `None` if the local fallback
    /// decides or the queue is full.
    fn subscribe(&self, hash: u64, entry: &mut Entry, now: u64) -> Option<GrantReceiver> {
        if self.backend.uses_local_fallback(now) || !self.enqueue(hash, entry) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        entry.waiters.push(sender);
        Some(receiver)
    }

    /// Waits until a grant serves this request, for as many calls as the time limit permits.
    async fn wait(&self, hash: u64, config: &BucketConfig, mut grant: GrantReceiver) -> Decision {
        let deadline = tokio::time::Instant::now() + CALL_LIMIT;
        loop {
            let result = tokio::time::timeout_at(deadline, grant).await;
            if let Ok(Ok(Some(decision))) = result {
                return decision;
            }
            let in_time = result.is_ok();
            let now = self.now_ns();
            let next = self.table.with_existing(hash, now, |entry| match entry.lease.decide_waiting(now) {
                LeaseDecision::Decided(decision) => ControlFlow::Break(decision),
                LeaseDecision::Unknown if in_time => match self.subscribe(hash, entry, now) {
                    Some(next) => ControlFlow::Continue(next),
                    None => ControlFlow::Break(self.decide_by_local_fallback(entry, config, now)),
                },
                LeaseDecision::Unknown => {
                    ControlFlow::Break(self.decide_by_local_fallback(entry, config, now))
                }
            });
            match next {
                Some(ControlFlow::Break(decision)) => return decision,
                Some(ControlFlow::Continue(next)) => grant = next,
                // The key was evicted meanwhile; a retry creates it anew.
                None => return Decision::Refuse { retry_after: Some(FALLBACK_RETRY_AFTER) },
            }
        }
    }

    /// Decides without the shared state, according to `onBackendFailure`.
    fn decide_by_local_fallback(&self, entry: &mut Entry, config: &BucketConfig, now: u64) -> Decision {
        let (on_failure, share) =
            config.sharing.map_or((BackendFailure::LocalShare, config.limit), |sharing| {
                (sharing.on_failure, sharing.share)
            });
        match on_failure {
            BackendFailure::LocalShare => {
                self.fallback.local_share.fetch_add(1, Ordering::Relaxed);
                entry.lease.decide_by_local_fallback(&share, now)
            }
            BackendFailure::Allow => {
                self.fallback.allow.fetch_add(1, Ordering::Relaxed);
                Decision::Admit { remaining: config.limit.capacity() as u64, full_in: Duration::ZERO }
            }
            BackendFailure::Deny => {
                self.fallback.deny.fetch_add(1, Ordering::Relaxed);
                Decision::Refuse { retry_after: Some(FALLBACK_RETRY_AFTER) }
            }
        }
    }
}
