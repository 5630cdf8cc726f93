//! The keys that a replica knows: bounded, and under locks that are held for a few instructions.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{Bucketed, Decision, Terms, lease::Lease};

/// So many locks.
const SHARDS: usize = 64;
/// So many keys are looked at when one has to make room.
const LOOKED_AT: usize = 32;

/// One key.
pub(super) struct Entry {
    pub(super) lease: Lease,
    pub(super) terms: Terms,
    /// What it is called in Redis.
    pub(super) name: Box<str>,
    /// It is in the queue.
    pub(super) queued: bool,
    /// Told by the next answer: what was decided, or that another try may be worth while.
    pub(super) waiting: Vec<oneshot::Sender<Option<Decision>>>,
}

type Shard = HashMap<u64, Entry, RandomState>;

pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    most: usize,
}

impl Table {
    pub(super) fn with_room_for(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            most: keys.div_ceil(SHARDS).max(LOOKED_AT),
        }
    }

    /// Works on the entry of a bucket, which is made if need be.
    pub(super) fn with<R>(
        &self,
        bucket: &Bucketed<'_>,
        terms: &Terms,
        name: impl FnOnce() -> u64,
        work: impl FnOnce(&mut Entry) -> R,
    ) -> R {
        let mut shard = self.shard(bucket.hash).lock();
        if !shard.contains_key(&bucket.hash) {
            if shard.len() >= self.most {
                make_room(&mut shard);
            }
            let entry = Entry {
                lease: Lease::new(terms.limit, name()),
                terms: *terms,
                name: bucket.name().into(),
                queued: false,
                waiting: Vec::new(),
            };
            shard.insert(bucket.hash, entry);
        }
        let entry = shard.get_mut(&bucket.hash).expect("it is there, or was just put there");
        entry.terms = *terms;
        work(entry)
    }

    /// Works on an entry, if it is there.
    pub(super) fn with_known<R>(&self, hash: u64, work: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        self.shard(hash).lock().get_mut(&hash).map(work)
    }

    /// Keeps the entries for which `keep` says so, one shard after another.
    pub(super) fn retain(&self, mut keep: impl FnMut(u64, &mut Entry) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|hash, entry| keep(*hash, entry));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    pub(super) fn room(&self) -> usize {
        SHARDS * self.most
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 58) as usize % SHARDS]
    }
}

/// Removes the entry that was not asked for longest, of those looked at. One that waits for an answer stays
/// unless all of them do.
fn make_room(shard: &mut Shard) {
    let oldest = shard
        .iter()
        .take(LOOKED_AT)
        .min_by_key(|(_, entry)| {
            (!entry.waiting.is_empty(), !entry.lease.may_be_forgotten(), entry.lease.seen_ns())
        })
        .map(|(hash, _)| *hash);
    if let Some(hash) = oldest {
        shard.remove(&hash);
    }
}
