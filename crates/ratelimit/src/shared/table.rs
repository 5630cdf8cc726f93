//! The leases of the keys that a replica knows.
//!
//! Bounded, and behind locks that are held for a few instructions. Published credit is found without them.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    clock::Clock,
    fast_path::{FastPathTable, SlotHandle},
};
use crate::{BucketConfig, BucketRef, Decision, Limit, lease::Lease};

/// Number of shards, each behind its own lock.
const SHARDS: usize = 64;
/// Number of keys that an eviction compares.
const EVICTION_SAMPLE: usize = 32;

/// The lease of one key, and the requests that wait for it.
pub(super) struct Entry {
    pub(super) lease: Lease,
    /// Slot of the published credit; `None` while all slots of the key are occupied.
    slot: Option<SlotHandle>,
    pub(super) config: BucketConfig,
    /// Name of the bucket in Redis.
    pub(super) name: Box<str>,
    /// True while the key waits for the next call.
    pub(super) queued: bool,
    /// Requests that wait for the next grant. Each receives the decision, or `None` if the grant does not
    /// serve it and another attempt may succeed.
    pub(super) waiters: Vec<oneshot::Sender<Option<Decision>>>,
}

type Shard = HashMap<u64, Entry, RandomState>;

/// The entries of all known keys, by the hash of the key.
pub(super) struct LeaseTable {
    shards: Box<[Mutex<Shard>]>,
    fast_path: FastPathTable,
    shard_capacity: usize,
}

impl LeaseTable {
    /// Creates a table for at least `keys` keys.
    pub(super) fn with_capacity(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            fast_path: FastPathTable::with_capacity(keys),
            shard_capacity: keys.div_ceil(SHARDS).max(EVICTION_SAMPLE),
        }
    }

    /// Decides on a request by the published credit of its key. Returns `None` if only the entry can decide.
    pub(super) fn decide(&self, hash: u64, limit: &Limit, clock: &Clock) -> Option<Decision> {
        self.fast_path.decide(hash, limit, clock)
    }

    /// Applies `f` to the entry of a bucket, which is created if it does not exist.
    pub(super) fn with_entry<R>(
        &self,
        bucket: &BucketRef<'_>,
        config: &BucketConfig,
        now_ns: u64,
        new_holder: impl FnOnce() -> u64,
        f: impl FnOnce(&mut Entry) -> R,
    ) -> R {
        let mut shard = self.shard(bucket.hash).lock();
        if !shard.contains_key(&bucket.hash) {
            if shard.len() >= self.shard_capacity {
                self.evict_one(&mut shard);
            }
            let entry = Entry {
                lease: Lease::new(config.limit, new_holder()),
                slot: None,
                config: *config,
                name: bucket.name().into(),
                queued: false,
                waiters: Vec::new(),
            };
            shard.insert(bucket.hash, entry);
        }
        let entry = shard.get_mut(&bucket.hash).expect("the entry exists or was just inserted");
        entry.config = *config;
        if entry.slot.is_none() {
            entry.slot = self.fast_path.claim(bucket.hash);
        }
        self.update(entry, now_ns, f)
    }

    /// Applies `f` to an entry if it exists.
    pub(super) fn with_existing<R>(
        &self,
        hash: u64,
        now_ns: u64,
        f: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        self.shard(hash).lock().get_mut(&hash).map(|entry| self.update(entry, now_ns, f))
    }

    /// Withdraws the credit of an entry, applies `f`, and publishes the credit anew.
    fn update<R>(&self, entry: &mut Entry, now_ns: u64, f: impl FnOnce(&mut Entry) -> R) -> R {
        if let Some(slot) = &mut entry.slot {
            self.fast_path.withdraw(slot, &mut entry.lease);
        }
        let result = f(entry);
        if let Some(slot) = &mut entry.slot {
            self.fast_path.publish(slot, &entry.lease, now_ns);
        }
        result
    }

    /// Retains the entries for which `keep` returns true, one shard after another. Their credit stays
    /// published, so the leases do not yet account for tokens spent from it.
    pub(super) fn retain(&self, mut keep: impl FnMut(u64, &mut Entry) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|hash, entry| {
                if let Some(slot) = &entry.slot {
                    entry.lease.record_request(self.fast_path.last_request_ns(slot));
                }
                let is_kept = keep(*hash, entry);
                if !is_kept && let Some(slot) = &entry.slot {
                    self.fast_path.release(slot);
                }
                is_kept
            });
        }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Maximum number of entries.
    pub(super) fn capacity(&self) -> usize {
        SHARDS * self.shard_capacity
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 58) as usize % SHARDS]
    }

    /// Removes the longest idle entry of a sample. Prefers entries without waiting requests, then those
    /// without a report in flight.
    fn evict_one(&self, shard: &mut Shard) {
        let last_request_ns = |entry: &Entry| {
            let by_credit = entry.slot.as_ref().map_or(0, |slot| self.fast_path.last_request_ns(slot));
            entry.lease.last_request_ns().max(by_credit)
        };
        let evicted = shard
            .iter()
            .take(EVICTION_SAMPLE)
            .min_by_key(|(_, entry)| {
                (!entry.waiters.is_empty(), !entry.lease.is_evictable(), last_request_ns(entry))
            })
            .map(|(hash, _)| *hash);
        let removed = evicted.and_then(|hash| shard.remove(&hash));
        if let Some(slot) = removed.and_then(|entry| entry.slot) {
            self.fast_path.release(&slot);
        }
    }
}
