//! Buckets that all replicas of a service share, through Redis.
//!
//! ```text
//! request -> purse of its key: decided without a lock, as a rule
//!              '-- says nothing --> lease of its key
//!                                     '-- ask --> queue -> one script call for many keys -> grants -> those who wait
//! ```
//!
//! * A request waits only for a key of which nothing is known here, and at most [`phase6_redis::CALL_LIMIT`].
//! * After a call that failed nobody waits: each bucket does what its policy says of a failure. When Redis is
//!   back it is told first what was spent meanwhile, and asked for tokens when all replicas have told.
//! * Keys are bounded: the one that was not asked for longest makes room. What it held comes back when its
//!   lease ends.

mod clock;
mod flusher;
mod slots;
mod table;

use std::{
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

use crate::{Backend, Bucketed, Terms, Verdict, contact::Contact, gcra::Decision, lease::Step};
use clock::Clock;
use table::{Entry, Table};

/// Keys that wait for the next call.
const QUEUE: usize = 8_192;
/// Told to a client that is refused because the shared state is gone.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Buckets shared through Redis. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Shared {
    inner: Arc<Inner>,
}

struct Inner {
    redis: Redis,
    clock: Clock,
    names: AtomicU64,
    table: Table,
    queue: mpsc::Sender<u64>,
    contact: Contact,
    calls: AtomicU64,
    failed_calls: AtomicU64,
    /// Decisions without the shared state: by the share, admitted, refused.
    alone: [AtomicU64; 3],
}

/// What is known of shared buckets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedStats {
    /// Keys that this replica knows.
    pub leases: usize,
    /// Most keys that it can know.
    pub max_leases: usize,
    /// Calls to the shared state, since the start.
    pub calls: u64,
    /// Calls without an answer.
    pub failed_calls: u64,
    /// Whether the last one had none.
    pub gone: bool,
    /// Whether buckets are decided about without it: it is gone, or was until a moment ago.
    pub alone: bool,
    /// Requests decided without it: by this replica's share, admitted because the policy says `Allow`,
    /// and refused because it says `Deny`.
    pub decided_alone: [u64; 3],
}

impl Shared {
    /// Buckets under the keys of `redis`, with room for as many as `keys`. Needs a tokio runtime; what it
    /// starts ends with the last handle.
    pub fn new(redis: Redis, keys: usize) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            redis,
            clock: Clock::start(),
            // Unique among all replicas that ever were, and exact as a number of 53 bits.
            names: AtomicU64::new(rand::random::<u64>() >> 11),
            table: Table::with_room_for(keys),
            queue,
            contact: Contact::default(),
            calls: AtomicU64::new(0),
            failed_calls: AtomicU64::new(0),
            alone: Default::default(),
        });
        tokio::spawn(flusher::run(Arc::downgrade(&inner), queued));
        tokio::spawn(flusher::tend(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// What is known here.
    pub fn stats(&self) -> SharedStats {
        let Inner { table, calls, failed_calls, contact, alone, .. } = &*self.inner;
        SharedStats {
            leases: table.len(),
            max_leases: table.room(),
            calls: calls.load(Ordering::Relaxed),
            failed_calls: failed_calls.load(Ordering::Relaxed),
            gone: contact.is_gone(),
            alone: contact.is_alone(self.inner.now_ns()),
            decided_alone: [0, 1, 2].map(|i: usize| alone[i].load(Ordering::Relaxed)),
        }
    }
}

impl Backend for Shared {
    fn decide(&self, bucket: &Bucketed<'_>, terms: &Terms) -> Verdict {
        let inner = &self.inner;
        if let Some(decision) = inner.table.decide(bucket.hash, &terms.limit, &inner.clock) {
            return Verdict::Now(decision);
        }
        let now = inner.now_ns();
        inner.table.with(
            bucket,
            terms,
            now,
            || inner.name(),
            |entry| match entry.lease.decide(&terms.limit, now, || inner.name()) {
                Step::Decided(decision) => {
                    if entry.lease.wants_to_report(now) && !inner.contact.is_alone(now) {
                        inner.enqueue(bucket.hash, entry);
                    }
                    Verdict::Now(decision)
                }
                Step::Ask => match inner.wait_for(bucket.hash, entry, now) {
                    Some(grant) => {
                        let (inner, hash, terms) = (Arc::clone(inner), bucket.hash, *terms);
                        Verdict::Later(Box::pin(async move { inner.waits(hash, &terms, grant).await }))
                    }
                    None => Verdict::Now(inner.alone(entry, terms, now)),
                },
            },
        )
    }
}

impl Inner {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts a key into the next call. False: too many wait already.
    fn enqueue(&self, hash: u64, entry: &mut Entry) -> bool {
        if !entry.queued {
            entry.queued = self.queue.try_send(hash).is_ok();
        }
        entry.queued
    }

    /// Asks for a grant, and tells when there is one. None: it would be in vain.
    fn wait_for(
        &self,
        hash: u64,
        entry: &mut Entry,
        now: u64,
    ) -> Option<oneshot::Receiver<Option<Decision>>> {
        if self.contact.is_alone(now) || !self.enqueue(hash, entry) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        entry.waiting.push(sender);
        Some(receiver)
    }

    /// Waits for grants until one is for this request, or for long enough.
    async fn waits(
        &self,
        hash: u64,
        terms: &Terms,
        mut grant: oneshot::Receiver<Option<Decision>>,
    ) -> Decision {
        let due = tokio::time::Instant::now() + CALL_LIMIT;
        loop {
            let told = tokio::time::timeout_at(due, grant).await;
            if let Ok(Ok(Some(decision))) = told {
                return decision;
            }
            let in_time = told.is_ok();
            let now = self.now_ns();
            let decided = self.table.with_known(hash, now, |entry| match entry.lease.again(now) {
                Step::Decided(decision) => Ok(decision),
                Step::Ask if in_time => match self.wait_for(hash, entry, now) {
                    Some(next) => Err(next),
                    None => Ok(self.alone(entry, terms, now)),
                },
                Step::Ask => Ok(self.alone(entry, terms, now)),
            });
            match decided {
                Some(Ok(decision)) => return decision,
                Some(Err(next)) => grant = next,
                // It had to make room. Whoever is refused comes again.
                None => return Decision::Refuse { retry_after: Some(REFUSED_FOR) },
            }
        }
    }

    /// Decides without the shared state.
    fn alone(&self, entry: &mut Entry, terms: &Terms, now: u64) -> Decision {
        let count = |mode: usize| self.alone[mode].fetch_add(1, Ordering::Relaxed);
        let (on_failure, share) = terms
            .sharing
            .map_or((BackendFailure::LocalShare, terms.limit), |sharing| (sharing.on_failure, sharing.share));
        match on_failure {
            BackendFailure::LocalShare => {
                count(0);
                entry.lease.decide_alone(&share, now)
            }
            BackendFailure::Allow => {
                count(1);
                Decision::Admit { remaining: terms.limit.capacity() as u64, full_in: Duration::ZERO }
            }
            BackendFailure::Deny => {
                count(2);
                Decision::Refuse { retry_after: Some(REFUSED_FOR) }
            }
        }
    }
}
