//! Interface of a second, slower cache level behind the memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use phase6_redis::WaitBudget;
use serde::Serialize;

use crate::{Entry, Invalidation, Key};

/// A cache level behind the memory. It handles its errors itself: a failed read finds nothing, and the
/// failure is counted.
pub trait Level: Send + Sync + 'static {
    /// Registers the listener for invalidations by other processes. Called once, before any other method.
    fn attach(&self, _listener: InvalidationListener) {}

    /// Returns true if this process learns of other processes' invalidations at once. While it does not, the
    /// memory serves entries only briefly.
    fn is_in_sync(&self) -> bool {
        true
    }

    /// Returns the offset up to which this process has read the shared invalidation log. Taken before a fetch
    /// begins.
    fn log_offset(&self) -> u64 {
        0
    }

    /// Returns true if other processes store responses here too, so that the level may hold a newer response
    /// than the memory.
    fn is_shared(&self) -> bool {
        false
    }

    /// Looks up a response. If there is no usable one, a shared level may wait for another process that is
    /// fetching it. Of several variants under one key, the level holds only the newest.
    fn get<'a>(&'a self, query: LevelQuery<'a>) -> BoxFuture<'a, LevelLookup>;

    /// Queues a response to be stored. Never blocks; drops the response if the queue is full.
    fn put(&self, write: LevelWrite);

    /// Queues an invalidation. It is applied before any response that is queued after it. `sequence` is its
    /// number among the invalidations of this cache.
    fn invalidate(&self, invalidation: Invalidation, sequence: u64);

    /// Waits until all earlier invalidations have been published to the other processes.
    fn wait_until_published(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Applies everything that is queued, and marks the stored responses as valid for the next start.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Returns the level's content and its counts since the start.
    fn stats(&self) -> LevelStats;
}

/// Callback for invalidations by other processes.
pub type InvalidationListener = Box<dyn Fn(Invalidation) + Send + Sync>;

/// Lookup of one request in a level.
#[derive(Clone, Copy)]
pub struct LevelQuery<'a> {
    /// Key of the response.
    pub key: &'a Key,
    /// Headers of the request, by which a response may have been selected.
    pub headers: &'a HeaderMap,
    /// Clock of the cache. Read before every access, because a level may wait between two.
    pub now: &'a (dyn Fn() -> CacheTime + Send + Sync),
    /// Time that the request may still wait for the shared state.
    pub wait_budget: WaitBudget,
    /// Returns true if the request can use an entry. If it cannot, it fetches a new response.
    pub is_usable: &'a (dyn Fn(&Entry) -> bool + Send + Sync),
}

/// A moment in the life of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTime {
    /// Milliseconds on the clock of the cache.
    pub ms: u64,
    /// Sequence number of the next invalidation.
    pub next_sequence: u64,
}

/// Result of a lookup in a level.
#[derive(Default)]
pub struct LevelLookup {
    /// Entry under the key, usable or not.
    pub found: Option<FoundEntry>,
    /// Lock to hold while a new response is fetched.
    pub guard: Option<BoxFillGuard>,
}

/// An entry read from a level.
pub struct FoundEntry {
    /// The entry.
    pub entry: Entry,
    /// Sequence number of the first invalidation that the level had not applied when it read the entry.
    pub next_sequence: u64,
}

/// A response to be stored in a level.
pub struct LevelWrite {
    /// The response.
    pub entry: Arc<Entry>,
    /// Age of the response at the time of the call.
    pub age: Duration,
    /// Offset in the shared invalidation log at which the fetch began.
    pub log_offset: u64,
    /// Age at which no request can use the response any more.
    pub max_useful_age: Duration,
    /// Lock under which the response was fetched, held until the response is stored.
    pub guard: Option<BoxFillGuard>,
}

/// Boxed [`FillGuard`].
pub type BoxFillGuard = Box<dyn FillGuard>;

/// Held lock on fetching one response. Other processes wait for the response until the guard is dropped.
pub trait FillGuard: Send + Sync {
    /// Reports that the response was invalidated while it was fetched: the waiting processes need another
    /// one.
    fn report_invalidated(self: Box<Self>);
}

/// Content of a level and its counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LevelStats {
    /// Lookups that found a usable response.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Responses stored.
    pub writes: u64,
    /// Responses not stored because the queue was full or the level had failed.
    pub dropped: u64,
    /// Failed operations.
    pub errors: u64,
    /// Approximate number of responses held.
    pub entries: u64,
    /// Approximate number of bytes held.
    pub bytes: u64,
    /// True if other processes store responses here too.
    pub is_shared: bool,
    /// True if this process learns of other processes' invalidations at once.
    pub in_sync: bool,
}

/// Counters that every level keeps.
#[derive(Default)]
pub(crate) struct LevelCounters {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl LevelCounters {
    /// Returns the counts; the level adds its content.
    pub(crate) fn stats(&self) -> LevelStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LevelStats {
            hits: get(&self.hits),
            misses: get(&self.misses),
            writes: get(&self.writes),
            dropped: get(&self.dropped),
            errors: get(&self.errors),
            ..LevelStats::default()
        }
    }
}
