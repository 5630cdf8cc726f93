//! The cache of one service: entries in memory, fetches in progress, and invalidation, behind one handle.
//!
//! An invalidation that races a fetch or a promotion wins: a response is stored only if no invalidation since
//! the start of its fetch matches it. Leaves fetching to [`crate::fetch`] and storage outside of memory to
//! [`Level`].

mod clock;
mod stats;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Uri};
use parking_lot::Mutex;
use phase6_redis::WaitBudget;

use self::clock::Clock;
pub(crate) use self::stats::Counters;
pub use self::stats::Stats;
use crate::{
    CachePolicy, Entry, Invalidation, Key, Level,
    entry::normalize_target,
    freshness::Freshness,
    invalidation::RecentInvalidations,
    level::{BoxFillGuard, CacheTime, FoundEntry, LevelQuery, LevelWrite},
    memory::{Memory, MemoryLookup},
    rfc9111::RequestDirectives,
    single_flight::{Role, SingleFlight},
};

/// Time in milliseconds for which requests for a key with unstorable responses bypass the cache.
const HIT_FOR_PASS_MS: u64 = 10_000;
/// Upper bound on the TTL while this replica does not learn of other replicas' invalidations.
const MAX_TTL_OUT_OF_SYNC: Duration = Duration::from_secs(1);

/// The cache of one service. Clones are handles to the same cache.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    memory: Memory,
    second_level: Option<Arc<dyn Level>>,
    fetches: Arc<SingleFlight<u64, FetchOutcome>>,
    invalidations: Mutex<RecentInvalidations>,
    clock: Clock,
    counters: Counters,
}

/// Start of a fetch, as a position among the invalidations: everything before it is older than the response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    /// Sequence number of the next invalidation of this process.
    next_sequence: u64,
    /// Offset of the second level in the shared invalidation log.
    log_offset: u64,
}

/// Result of a fetch, for the requests that wait for it.
#[derive(Clone, Debug)]
pub(crate) enum FetchOutcome {
    /// The response may be used by every request for the key.
    Shareable {
        entry: Arc<Entry>,
        /// Start of the fetch.
        epoch: Epoch,
        /// Arrival of the response from the handler in milliseconds; `None` if it came from the second level.
        fetched_at_ms: Option<u64>,
    },
    /// The response is for its own request only: each of the others fetches for itself.
    NotShareable,
}

/// Result of a lookup in the second level.
#[derive(Default)]
pub(crate) struct Promotion {
    /// Entry copied into memory, usable or not.
    pub(crate) found: Option<PromotedEntry>,
    /// Lock to hold while a new response is fetched.
    pub(crate) guard: Option<BoxFillGuard>,
}

/// An entry copied from the second level into memory.
pub(crate) struct PromotedEntry {
    pub(crate) entry: Arc<Entry>,
    /// Epoch up to which the entry is known not to be invalidated.
    pub(crate) epoch: Epoch,
}

impl Inner {
    /// Applies an invalidation to the memory. `forward` passes it to the second level, in the order of the
    /// sequence numbers.
    fn invalidate(&self, invalidation: Invalidation, forward: impl FnOnce(&Invalidation, u64)) -> usize {
        {
            let mut invalidations = self.invalidations.lock();
            forward(&invalidation, invalidations.next_sequence());
            invalidations.push(invalidation.clone());
        }
        let removed = self.memory.remove(&invalidation);
        self.counters.invalidated.fetch_add(removed as u64, Ordering::Relaxed);
        removed
    }
}

impl Cache {
    /// Creates an empty cache, over a second level if there is one.
    pub fn new(second_level: Option<Arc<dyn Level>>) -> Self {
        Self::with_clock(second_level, Clock::system(), rand::random())
    }

    /// Creates an empty cache whose clock, in milliseconds, is moved by the caller and whose hashes are the
    /// same in every run: for tests and simulations.
    pub fn with_manual_clock(second_level: Option<Arc<dyn Level>>, now_ms: Arc<AtomicU64>) -> Self {
        Self::with_clock(second_level, Clock::Manual(now_ms), 0)
    }

    fn with_clock(second_level: Option<Arc<dyn Level>>, clock: Clock, seed: u64) -> Self {
        let inner = Arc::new(Inner {
            memory: Memory::new(10_000, seed),
            second_level,
            fetches: Arc::default(),
            invalidations: Mutex::default(),
            clock,
            counters: Counters::default(),
        });
        if let Some(level) = &inner.second_level {
            let weak = Arc::downgrade(&inner);
            level.attach(Box::new(move |invalidation| {
                if let Some(inner) = weak.upgrade() {
                    inner.invalidate(invalidation, |_, _| {});
                }
            }));
        }
        Self { inner }
    }

    /// Invalidates responses on all replicas. Returns the number of responses removed from the memory. A
    /// response that is being fetched now will not be stored if the invalidation matches it.
    pub fn invalidate(&self, invalidation: Invalidation) -> usize {
        self.inner.invalidate(invalidation, |invalidation, sequence| {
            if let Some(level) = &self.inner.second_level {
                level.invalidate(invalidation.clone(), sequence);
            }
        })
    }

    /// Returns the entry in memory that serves a plain `GET` by `tenant`, if it is fresh.
    pub fn get_fresh(
        &self,
        tenant: &str,
        uri: &Uri,
        headers: &HeaderMap,
        policy: &CachePolicy,
    ) -> Option<Arc<Entry>> {
        let uri = normalize_target(uri);
        let now_ms = self.now_ms();
        match self.lookup(self.hash(tenant, &uri), tenant, &uri, headers, now_ms) {
            MemoryLookup::Entry(entry) => {
                match entry.freshness(&self.effective_policy(policy), &RequestDirectives::default(), now_ms) {
                    Freshness::Fresh { .. } => Some(entry),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Waits until all earlier invalidations have been published to the other replicas.
    pub async fn wait_until_published(&self) {
        if let Some(level) = &self.inner.second_level {
            level.wait_until_published().await;
        }
    }

    /// Applies everything that is queued for the second level. Called before a stop: an invalidation that was
    /// not applied would be lost with the process.
    pub async fn close(&self) {
        if let Some(level) = &self.inner.second_level {
            level.close().await;
        }
    }

    /// Returns the content of the cache and its counts since the start.
    pub fn stats(&self) -> Stats {
        let Inner { counters, memory, fetches, second_level, .. } = &*self.inner;
        Stats {
            entries: memory.len(),
            in_flight: fetches.len(),
            second_level: second_level.as_ref().map(|level| level.stats()),
            ..counters.stats()
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    /// Adjusts the memory to the policy in force.
    pub(crate) fn apply_policy(&self, policy: &CachePolicy) {
        self.inner.memory.set_max_entries(policy.max_entries);
    }

    pub(crate) fn hash(&self, tenant: &str, uri: &str) -> u64 {
        self.inner.memory.hash(tenant, uri)
    }

    pub(crate) fn jitter(&self, hash: u64, now_ms: u64) -> f64 {
        self.inner.memory.jitter(hash, now_ms)
    }

    pub(crate) fn lookup(
        &self,
        hash: u64,
        tenant: &str,
        uri: &str,
        headers: &HeaderMap,
        now_ms: u64,
    ) -> MemoryLookup {
        self.inner.memory.lookup(hash, tenant, uri, headers, now_ms)
    }

    /// Joins the fetch for a key.
    pub(crate) fn join_fetch(&self, hash: u64) -> Role<u64, FetchOutcome> {
        self.inner.fetches.join(hash)
    }

    /// Number of fetches in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.inner.fetches.len()
    }

    /// Returns the current epoch. Taken before a fetch begins.
    pub(crate) fn epoch(&self) -> Epoch {
        let log_offset = self.inner.second_level.as_ref().map_or(0, |level| level.log_offset());
        Epoch { next_sequence: self.inner.invalidations.lock().next_sequence(), log_offset }
    }

    /// Returns the policy that can be honored now: while this replica does not learn of other replicas'
    /// invalidations at once, entries are fresh only briefly and are not revalidated in the background.
    pub(crate) fn effective_policy(&self, policy: &CachePolicy) -> CachePolicy {
        if self.inner.second_level.as_ref().is_none_or(|level| level.is_in_sync()) {
            return *policy;
        }
        CachePolicy {
            ttl: policy.ttl.min(MAX_TTL_OUT_OF_SYNC),
            stale_while_revalidate: Duration::ZERO,
            ..*policy
        }
    }

    /// Stores a response in memory and in the second level, unless it was invalidated since the start of its
    /// fetch. Returns true if it was stored.
    pub(crate) fn store(
        &self,
        entry: &Arc<Entry>,
        request_headers: &HeaderMap,
        epoch: Epoch,
        policy: &CachePolicy,
        guard: Option<BoxFillGuard>,
    ) -> bool {
        // Held across the insertion: a concurrent invalidation is already recorded and found here, or it comes
        // after the insertion and removes the entry.
        let invalidations = self.inner.invalidations.lock();
        if invalidations.matches_since(epoch.next_sequence, entry) {
            if let Some(guard) = guard {
                guard.report_invalidated();
            }
            return false;
        }
        self.inner.memory.insert(Arc::clone(entry), request_headers);
        if let Some(level) = &self.inner.second_level {
            level.put(LevelWrite {
                entry: Arc::clone(entry),
                age: entry.age(self.now_ms()),
                log_offset: epoch.log_offset,
                max_useful_age: policy.max_useful_age(entry.is_negative()),
                guard,
            });
        }
        drop(invalidations);
        self.inner.counters.writes.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Returns true if an entry whose fetch began at `epoch` has been invalidated since.
    pub(crate) fn is_invalidated_since(&self, epoch: Epoch, entry: &Entry) -> bool {
        self.inner.invalidations.lock().matches_since(epoch.next_sequence, entry)
    }

    /// Lets requests for a key bypass the cache for a while, unless an entry is stored under it.
    pub(crate) fn mark_hit_for_pass(&self, hash: u64) {
        self.inner.memory.mark_hit_for_pass(hash, self.now_ms() + HIT_FOR_PASS_MS);
    }

    /// Looks up an entry in the second level and copies it into memory, with its age.
    pub(crate) async fn promote(
        &self,
        key: &Key,
        headers: &HeaderMap,
        wait_budget: WaitBudget,
        is_usable: &(dyn Fn(&Entry) -> bool + Send + Sync),
    ) -> Promotion {
        let Some(level) = &self.inner.second_level else { return Promotion::default() };
        let now = || CacheTime {
            ms: self.now_ms(),
            next_sequence: self.inner.invalidations.lock().next_sequence(),
        };
        let query = LevelQuery { key, headers, now: &now, wait_budget, is_usable };
        let lookup = level.get(query).await;
        let Key { tenant, uri } = key;
        let now_ms = self.now_ms();
        // An entry from the future was stored by a process with another calendar time.
        let is_valid = |entry: &Entry| {
            entry.matches_request(tenant, uri, headers) && entry.fetch_started_at_ms <= now_ms
        };
        let Some(FoundEntry { entry, next_sequence }) = lookup.found.filter(|found| is_valid(&found.entry))
        else {
            return Promotion { found: None, guard: lookup.guard };
        };
        let entry = Arc::new(entry);
        let invalidations = self.inner.invalidations.lock();
        // The second level lags behind: the memory may hold a newer entry that is not stored there yet.
        let newest_ms = self.inner.memory.newest_ms(self.hash(tenant, uri));
        let is_outdated = newest_ms.is_some_and(|newest_ms| newest_ms >= entry.fetch_started_at_ms);
        if is_outdated || invalidations.matches_since(next_sequence, &entry) {
            return Promotion { found: None, guard: lookup.guard };
        }
        self.inner.memory.insert(Arc::clone(&entry), headers);
        let epoch = Epoch { next_sequence: invalidations.next_sequence(), log_offset: level.log_offset() };
        drop(invalidations);
        self.inner.counters.promoted.fetch_add(1, Ordering::Relaxed);
        Promotion { found: Some(PromotedEntry { entry, epoch }), guard: lookup.guard }
    }

    /// Returns true if the second level may hold a newer response than the memory.
    pub(crate) fn is_shared(&self) -> bool {
        self.inner.second_level.as_ref().is_some_and(|level| level.is_shared())
    }
}
