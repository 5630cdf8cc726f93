//! Buckets of one replica in a table of fixed size, for any number of keys.
//!
//! The table is an array of small sets, each behind its own lock. The hash of a key selects its set. When a
//! set is full, a new key evicts the bucket that will be full again soonest. A bucket that is already full
//! loses no state by that, and in a flood of new keys, each with a single token used, the new keys evict one
//! another rather than a busy key.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    Backend, BackendDecision, BucketConfig, BucketRef,
    gcra::{Bucket, Decision, Limit},
};

/// Buckets per set.
const WAYS: usize = 7;

/// Buckets of one replica. Clones are handles to the same table.
#[derive(Clone, Debug)]
pub struct LocalBuckets {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    /// Allocated for the first key: a service without a limit needs no table.
    sets: OnceLock<Box<[AlignedSet]>>,
    set_count: usize,
    /// Zero of the clock.
    started: Instant,
    displaced: AtomicU64,
}

/// A set that starts at a cache line. The lock and the seven hashes fill that line, so a decision touches it
/// and one more.
#[derive(Debug, Default)]
#[repr(align(64))]
struct AlignedSet(Mutex<Set>);

#[derive(Debug, Default)]
#[repr(C)]
struct Set {
    /// Hash of each key; 0 marks a free way.
    keys: [u64; WAYS],
    buckets: [Bucket; WAYS],
}

/// Occupancy of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalStats {
    /// Number of buckets that are not full at the moment.
    pub active_buckets: usize,
    /// Maximum number of buckets in the table.
    pub max_buckets: usize,
    /// Number of buckets since the start that were evicted before they were full again.
    pub displaced: u64,
}

impl LocalBuckets {
    /// Creates a table for at least `keys` keys. It never grows.
    pub fn with_capacity(keys: usize) -> Self {
        Self {
            table: Arc::new(Table {
                sets: OnceLock::new(),
                set_count: keys.div_ceil(WAYS).next_power_of_two(),
                started: Instant::now(),
                displaced: AtomicU64::new(0),
            }),
        }
    }

    /// Takes `cost` tokens at `now_ns` from the bucket of the key with this hash; see [`Bucket::decide`].
    pub fn decide_at(&self, hash: u64, limit: &Limit, cost: u32, now_ns: u64) -> Decision {
        let hash = hash.max(1);
        let sets = self.table.sets();
        let mut set = sets[(hash >> 32) as usize & (sets.len() - 1)].0.lock();
        let way = set.keys.iter().position(|key| *key == hash).unwrap_or_else(|| {
            let way = set.way_to_evict();
            if set.keys[way] != 0 && set.buckets[way].drained_at_ns() > now_ns {
                self.table.displaced.fetch_add(1, Ordering::Relaxed);
            }
            set.keys[way] = hash;
            set.buckets[way] = Bucket::default();
            way
        });
        set.buckets[way].decide(limit, cost, now_ns)
    }

    /// Returns the current occupancy. Visits every set.
    pub fn stats(&self) -> LocalStats {
        let now = self.now_ns();
        let active_in = |set: &AlignedSet| {
            let set = set.0.lock();
            let is_active = |(key, bucket): &(&u64, &Bucket)| **key != 0 && bucket.drained_at_ns() > now;
            set.keys.iter().zip(&set.buckets).filter(is_active).count()
        };
        LocalStats {
            active_buckets: self.table.sets.get().map_or(0, |sets| sets.iter().map(active_in).sum()),
            max_buckets: self.table.set_count * WAYS,
            displaced: self.table.displaced.load(Ordering::Relaxed),
        }
    }

    fn now_ns(&self) -> u64 {
        self.table.started.elapsed().as_nanos() as u64
    }
}

impl Table {
    fn sets(&self) -> &[AlignedSet] {
        self.sets.get_or_init(|| (0..self.set_count).map(|_| AlignedSet::default()).collect())
    }
}

impl Set {
    /// Returns a free way, or else the way whose bucket will be full again soonest.
    fn way_to_evict(&self) -> usize {
        (0..WAYS)
            .min_by_key(
                |way| if self.keys[*way] == 0 { 0 } else { self.buckets[*way].drained_at_ns().max(1) },
            )
            .expect("a set has at least one way")
    }
}

impl Backend for LocalBuckets {
    fn decide(&self, bucket: &BucketRef<'_>, config: &BucketConfig) -> BackendDecision {
        BackendDecision::Ready(self.decide_at(bucket.hash, &config.limit, 1, self.now_ns()))
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn a_lock_and_its_hashes_fill_one_cache_line() {
        assert_eq!(size_of::<AlignedSet>(), 256);
        assert_eq!(size_of::<Mutex<[u64; WAYS]>>(), 64);
    }

    const SECOND: u64 = 1_000_000_000;

    fn hash(key: u64) -> u64 {
        foldhash::quality::FixedState::default().hash_one(key)
    }

    #[test]
    fn keys_do_not_share_a_bucket() {
        let buckets = LocalBuckets::with_capacity(100);
        let limit = Limit::new(1, 1.0);
        assert!(buckets.decide_at(hash(1), &limit, 1, SECOND).is_admitted());
        assert!(!buckets.decide_at(hash(1), &limit, 1, SECOND).is_admitted());
        assert!(buckets.decide_at(hash(2), &limit, 1, SECOND).is_admitted());
    }

    /// The original system kept a bucket for every client id that it had ever seen.
    #[test]
    fn a_flood_of_new_keys_needs_no_memory_and_displaces_no_busy_key() {
        let buckets = LocalBuckets::with_capacity(1_000);
        let limit = Limit::new(10, 1.0);
        let busy: Vec<u64> = (0..50).map(|i| hash(u64::MAX - i)).collect();
        for key in &busy {
            for _ in 0..10 {
                assert!(buckets.decide_at(*key, &limit, 1, SECOND).is_admitted());
            }
        }
        for key in 0..200_000 {
            buckets.decide_at(hash(key), &limit, 1, SECOND + key);
        }
        assert!(buckets.stats().max_buckets < 4_000);
        for key in &busy {
            assert!(!buckets.decide_at(*key, &limit, 1, SECOND + 200_000).is_admitted(), "still empty");
        }
    }

    #[test]
    fn evicting_a_full_bucket_loses_no_state() {
        let buckets = LocalBuckets::with_capacity(7);
        let limit = Limit::new(10, 10.0);
        for key in 0..700 {
            // One second apart, so every earlier bucket is full again.
            assert!(buckets.decide_at(hash(key), &limit, 10, SECOND * (key + 1)).is_admitted());
        }
        assert_eq!(buckets.stats().displaced, 0);
    }

    #[test]
    fn concurrent_requests_of_one_key_get_exactly_its_tokens() {
        let buckets = LocalBuckets::with_capacity(100);
        let limit = Limit::new(500, 0.001);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000)
                            .filter(|_| buckets.decide_at(hash(1), &limit, 1, SECOND).is_admitted())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 500);
    }
}
