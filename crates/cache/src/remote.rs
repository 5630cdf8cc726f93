//! Second level in Redis, shared by all replicas of a service.
//!
//! ```text
//!   get        -> one script: the response, its remaining TTL, and the log records this replica has not read
//!   put        -> queue -> SET with a TTL
//!   invalidate -> unpublished invalidations -> appended to the log ---.
//!   other replicas' invalidations  <--- log reader: blocks on the log
//! ```
//!
//! Invalidations go through one log, a Redis stream. A response is stored with the offset of the log at the
//! start of its fetch, and is valid if no later record matches it. So one command invalidates any number of
//! responses, a fetch that races an invalidation loses, and a lost message cannot revive an invalidated
//! response.
//!
//! * One replica fetches a missing response; the others learn the outcome from the log, without polling.
//! * No request waits for Redis longer than [`phase6_redis::CALL_LIMIT`], and none waits for a write.
//! * A replica that may be missing invalidations reports it ([`Level::is_in_sync`]), and its memory serves
//!   entries for one second only. When it reads the log again it catches up; if it cannot, because Redis lost
//!   its data or the log was trimmed, it invalidates everything.
//! * Invalidations made while Redis is unreachable are published when it returns.
//! * Ages are measured on Redis' clock.
//! * All keys of one service share a hash slot, reveal neither tenants nor paths, and expire.

mod fill_lock;
#[cfg(fuzzing)]
pub mod fuzzing;
mod invalidation_index;
mod log_reader;
mod log_record;
mod lookup;
mod publisher;
mod stored_response;
mod writer;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use phase6_redis::Redis;
use tokio::sync::{Notify, mpsc};

use self::{
    fill_lock::Waiters, invalidation_index::InvalidationIndex, log_record::StreamOffset,
    publisher::UnpublishedInvalidations, writer::PendingWrite,
};
use crate::{
    Invalidation, InvalidationListener, Level, LevelLookup, LevelQuery, LevelStats, LevelWrite,
    level::LevelCounters,
};

/// Largest number of responses queued to be stored.
const QUEUE_CAPACITY: usize = 1024;
/// Longest time that a response stays in Redis, whatever a policy allows.
const MAX_AGE: Duration = Duration::from_hours(48);
/// Time to live of the log, longer than that of any response.
const LOG_TTL: Duration = Duration::from_hours(96);
/// Approximate number of records kept in the log.
const LOG_LENGTH: usize = 10_000;
/// Time without a reply from the log after which a replica may be missing invalidations.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// A cache level in Redis.
pub struct Remote {
    state: Arc<RemoteState>,
    queue: mpsc::Sender<PendingWrite>,
}

struct RemoteState {
    redis: Redis,
    waiters: Waiters,
    /// Random id of this replica in the log and in locks.
    replica_id: String,
    listener: OnceLock<InvalidationListener>,
    /// Invalidations read from the log; `None` until the log has been read for the first time.
    index: Mutex<Option<InvalidationIndex>>,
    unpublished: Mutex<UnpublishedInvalidations>,
    /// Wakes the publisher: an invalidation has to be published.
    publish_requested: Notify,
    /// Wakes callers of [`RemoteState::wait_until_published`]: an attempt to publish has ended.
    publish_attempted: Notify,
    /// Coarse clock, because it is read on every request.
    started: coarsetime::Instant,
    /// Time up to which no invalidation was missed, in milliseconds since `started`; 0 if never.
    synced_at_ms: AtomicU64,
    counters: LevelCounters,
}

impl Remote {
    /// Creates a level that uses the keys of `redis`, which nothing else may use. Has to be called within a
    /// tokio runtime; the tasks that it starts end when the level is dropped.
    pub fn new(redis: Redis) -> Self {
        let (queue, writes) = mpsc::channel(QUEUE_CAPACITY);
        let state = Arc::new(RemoteState {
            redis,
            waiters: Waiters::default(),
            replica_id: format!("{:016x}", rand::random::<u64>()),
            listener: OnceLock::new(),
            index: Mutex::default(),
            unpublished: Mutex::default(),
            publish_requested: Notify::new(),
            publish_attempted: Notify::new(),
            started: coarsetime::Instant::now(),
            synced_at_ms: AtomicU64::new(0),
            counters: LevelCounters::default(),
        });
        tokio::spawn(writer::run(Arc::downgrade(&state), writes));
        tokio::spawn(publisher::run(Arc::downgrade(&state)));
        Self { state, queue }
    }
}

impl Level for Remote {
    fn attach(&self, listener: InvalidationListener) {
        if self.state.listener.set(listener).is_ok() {
            tokio::spawn(log_reader::run(Arc::downgrade(&self.state)));
        }
    }

    fn is_in_sync(&self) -> bool {
        let synced_at = self.state.synced_at_ms.load(Ordering::Relaxed);
        synced_at > 0 && self.state.now_ms().saturating_sub(synced_at) < SYNC_TIMEOUT.as_millis() as u64
    }

    fn log_offset(&self) -> u64 {
        self.state.index.lock().as_ref().map_or(0, |index| index.offset().0)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn get<'a>(&'a self, query: LevelQuery<'a>) -> BoxFuture<'a, LevelLookup> {
        Box::pin(async move {
            let lookup = self.state.search(&query, self.is_in_sync()).await;
            let is_hit = lookup.found.as_ref().is_some_and(|found| (query.is_usable)(&found.entry));
            let counter = if is_hit { &self.state.counters.hits } else { &self.state.counters.misses };
            counter.fetch_add(1, Ordering::Relaxed);
            lookup
        })
    }

    fn put(&self, write: LevelWrite) {
        let write = PendingWrite {
            entry: write.entry,
            log_offset: StreamOffset(write.log_offset),
            max_useful_age: write.max_useful_age.min(MAX_AGE),
            age: write.age,
            queued_at: Instant::now(),
            guard: write.guard,
        };
        // An offset beyond the end of the log belongs to an earlier log, which was lost.
        let is_valid =
            self.state.index.lock().as_ref().is_some_and(|index| write.log_offset <= index.offset());
        if !is_valid || self.queue.try_send(write).is_err() {
            self.state.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn invalidate(&self, invalidation: Invalidation, sequence: u64) {
        self.state.unpublished.lock().add(invalidation, sequence);
        self.state.publish_requested.notify_one();
    }

    fn wait_until_published(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.state.wait_until_published())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.wait_until_published()
    }

    fn stats(&self) -> LevelStats {
        // The number of entries and their size are known to Redis only.
        LevelStats { is_shared: true, in_sync: self.is_in_sync(), ..self.state.counters.stats() }
    }
}

impl RemoteState {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis()
    }

    fn response_key(&self, name: &str) -> String {
        self.redis.key(format_args!("response:{name}"))
    }

    fn lock_key(&self, name: &str) -> String {
        self.redis.key(format_args!("fill:{name}"))
    }

    fn waiting_key(&self, name: &str) -> String {
        self.redis.key(format_args!("waiting:{name}"))
    }

    fn log_key(&self) -> String {
        self.redis.key("log")
    }

    fn count_failure(&self) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
    }
}
