//! Buckets in memory: a table of fixed size for any number of keys.
//!
//! The table is an array of small sets, each under a lock of its own. A key lives in the set that
//! its hash names. When a set is full, the bucket that will be full again soonest makes room: a
//! bucket that is already full loses nothing, and a flood of new keys, each with one token used,
//! displaces itself and no busy key.

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
    Backend, Bucketed, Terms, Verdict,
    gcra::{Bucket, Decision, Limit},
};

/// Buckets of one set.
const WAYS: usize = 7;

/// Buckets in memory, shared by all clones.
#[derive(Clone, Debug)]
pub struct Memory {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    /// Made when the first key comes: a service without a limit needs no table.
    sets: OnceLock<Box<[Line]>>,
    count: usize,
    epoch: Instant,
    displaced: AtomicU64,
}

/// A set at the start of a cache line: the lock and seven hashes fill it, so that a decision
/// touches this line and one more.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(Mutex<Set>);

#[derive(Debug, Default)]
#[repr(C)]
struct Set {
    /// Hash of each key; 0 marks a free place.
    keys: [u64; WAYS],
    buckets: [Bucket; WAYS],
}

/// How full the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Buckets that are not full at the moment.
    pub active_buckets: usize,
    /// Most buckets that the table can hold.
    pub max_buckets: usize,
    /// Buckets that had to make room before they were full again, since the start.
    pub displaced: u64,
}

impl Memory {
    /// A table for at least `keys` keys; it never grows.
    pub fn with_room_for(keys: usize) -> Self {
        let sets = keys.div_ceil(WAYS).next_power_of_two();
        Self {
            table: Arc::new(Table {
                sets: OnceLock::new(),
                count: sets,
                epoch: Instant::now(),
                displaced: AtomicU64::new(0),
            }),
        }
    }

    /// Takes `cost` tokens from the bucket `key` at `now_ns`; see [`Bucket::decide`].
    pub fn decide_at(&self, key: u64, limit: &Limit, cost: u32, now_ns: u64) -> Decision {
        let key = key.max(1);
        let sets = self.table.sets();
        let mut set = sets[(key >> 32) as usize & (sets.len() - 1)].0.lock();
        let way = set.keys.iter().position(|held| *held == key).unwrap_or_else(|| {
            let way = set.room();
            if set.keys[way] != 0 && set.buckets[way].forgotten_at_ns() > now_ns {
                self.table.displaced.fetch_add(1, Ordering::Relaxed);
            }
            set.keys[way] = key;
            set.buckets[way] = Bucket::default();
            way
        });
        set.buckets[way].decide(limit, cost, now_ns)
    }

    /// How full the table is now. Looks at every set.
    pub fn stats(&self) -> Stats {
        let now = self.now_ns();
        let active = |line: &Line| {
            let set = line.0.lock();
            let used = |(key, bucket): &(&u64, &Bucket)| **key != 0 && bucket.forgotten_at_ns() > now;
            set.keys.iter().zip(&set.buckets).filter(used).count()
        };
        Stats {
            active_buckets: self.table.sets.get().map_or(0, |sets| sets.iter().map(active).sum()),
            max_buckets: self.table.count * WAYS,
            displaced: self.table.displaced.load(Ordering::Relaxed),
        }
    }

    fn now_ns(&self) -> u64 {
        self.table.epoch.elapsed().as_nanos() as u64
    }
}

impl Table {
    fn sets(&self) -> &[Line] {
        self.sets.get_or_init(|| (0..self.count).map(|_| Line::default()).collect())
    }
}

impl Set {
    /// The place to give to a new key.
    fn room(&self) -> usize {
        (0..WAYS)
            .min_by_key(
                |way| if self.keys[*way] == 0 { 0 } else { self.buckets[*way].forgotten_at_ns().max(1) },
            )
            .expect("a set has ways")
    }
}

impl Backend for Memory {
    fn decide(&self, bucket: &Bucketed<'_>, terms: &Terms) -> Verdict {
        Verdict::Now(self.decide_at(bucket.hash, &terms.limit, 1, self.now_ns()))
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn a_lock_and_its_hashes_share_a_cache_line() {
        assert_eq!(size_of::<Line>(), 256);
        assert_eq!(size_of::<Mutex<[u64; WAYS]>>(), 64);
    }

    const SECOND: u64 = 1_000_000_000;

    fn hash(key: u64) -> u64 {
        foldhash::quality::FixedState::default().hash_one(key)
    }

    #[test]
    fn keys_do_not_share_a_bucket() {
        let memory = Memory::with_room_for(100);
        let limit = Limit::new(1, 1.0);
        assert!(memory.decide_at(hash(1), &limit, 1, SECOND).is_admitted());
        assert!(!memory.decide_at(hash(1), &limit, 1, SECOND).is_admitted());
        assert!(memory.decide_at(hash(2), &limit, 1, SECOND).is_admitted());
    }

    /// The original kept a bucket for every id it ever saw.
    #[test]
    fn endless_new_keys_take_no_memory_and_no_state_of_busy_ones() {
        let memory = Memory::with_room_for(1_000);
        let limit = Limit::new(10, 1.0);
        let busy: Vec<u64> = (0..50).map(|i| hash(u64::MAX - i)).collect();
        for key in &busy {
            for _ in 0..10 {
                assert!(memory.decide_at(*key, &limit, 1, SECOND).is_admitted());
            }
        }
        for key in 0..200_000 {
            memory.decide_at(hash(key), &limit, 1, SECOND + key);
        }
        assert!(memory.stats().max_buckets < 4_000);
        for key in &busy {
            assert!(!memory.decide_at(*key, &limit, 1, SECOND + 200_000).is_admitted(), "still empty");
        }
    }

    #[test]
    fn a_full_bucket_makes_room_without_loss() {
        let memory = Memory::with_room_for(7);
        let limit = Limit::new(10, 10.0);
        for key in 0..700 {
            // A second apart: the bucket before is full again.
            assert!(memory.decide_at(hash(key), &limit, 10, SECOND * (key + 1)).is_admitted());
        }
        assert_eq!(memory.stats().displaced, 0);
    }

    #[test]
    fn concurrent_requests_of_one_key_share_exactly_its_tokens() {
        let memory = Memory::with_room_for(100);
        let limit = Limit::new(500, 0.001);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000)
                            .filter(|_| memory.decide_at(hash(1), &limit, 1, SECOND).is_admitted())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 500);
    }
}
