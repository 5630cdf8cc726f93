//! The keys that a replica knows: bounded, and under locks that are held for a few instructions. What leases
//! lend is found without them.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    clock::Clock,
    slots::{Place, Slots},
};
use crate::{Bucketed, Decision, Limit, Terms, lease::Lease};

/// So many locks.
const SHARDS: usize = 64;
/// So many keys are looked at when one has to make room.
const LOOKED_AT: usize = 32;

/// One key.
pub(super) struct Entry {
    pub(super) lease: Lease,
    /// Where it lends.
    place: Option<Place>,
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
    slots: Slots,
    most: usize,
}

impl Table {
    pub(super) fn with_room_for(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            slots: Slots::with_room_for(keys),
            most: keys.div_ceil(SHARDS).max(LOOKED_AT),
        }
    }

    /// Decides about a request by what was lent to its key. None: only its entry can.
    pub(super) fn decide(&self, hash: u64, limit: &Limit, clock: &Clock) -> Option<Decision> {
        self.slots.decide(hash, limit, clock)
    }

    /// Works on the entry of a bucket, which is made if need be.
    pub(super) fn with<R>(
        &self,
        bucket: &Bucketed<'_>,
        terms: &Terms,
        now_ns: u64,
        name: impl FnOnce() -> u64,
        work: impl FnOnce(&mut Entry) -> R,
    ) -> R {
        let mut shard = self.shard(bucket.hash).lock();
        if !shard.contains_key(&bucket.hash) {
            if shard.len() >= self.most {
                self.make_room(&mut shard);
            }
            let entry = Entry {
                lease: Lease::new(terms.limit, name()),
                place: None,
                terms: *terms,
                name: bucket.name().into(),
                queued: false,
                waiting: Vec::new(),
            };
            shard.insert(bucket.hash, entry);
        }
        let entry = shard.get_mut(&bucket.hash).expect("it is there, or was just put there");
        entry.terms = *terms;
        if entry.place.is_none() {
            entry.place = self.slots.claim(bucket.hash);
        }
        self.work(entry, now_ns, work)
    }

    /// Works on an entry, if it is there.
    pub(super) fn with_known<R>(
        &self,
        hash: u64,
        now_ns: u64,
        work: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        self.shard(hash).lock().get_mut(&hash).map(|entry| self.work(entry, now_ns, work))
    }

    fn work<R>(&self, entry: &mut Entry, now_ns: u64, work: impl FnOnce(&mut Entry) -> R) -> R {
        if let Some(place) = &mut entry.place {
            self.slots.take(place, &mut entry.lease);
        }
        let result = work(entry);
        if let Some(place) = &mut entry.place {
            self.slots.lend(place, &entry.lease, now_ns);
        }
        result
    }

    /// Keeps the entries for which `keep` says so, one shard after another. What they have lent is not taken
    /// back for it: what was spent of that they do not know yet.
    pub(super) fn retain(&self, mut keep: impl FnMut(u64, &mut Entry) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|hash, entry| {
                if let Some(place) = &entry.place {
                    entry.lease.was_seen(self.slots.seen_ns(place));
                }
                let keeps = keep(*hash, entry);
                if !keeps && let Some(place) = &entry.place {
                    self.slots.free(place);
                }
                keeps
            });
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

    /// Removes the entry that was not asked for longest, of those looked at. One that waits for an answer stays
    /// unless all of them do.
    fn make_room(&self, shard: &mut Shard) {
        let seen_ns = |entry: &Entry| {
            let lent = entry.place.as_ref().map_or(0, |place| self.slots.seen_ns(place));
            entry.lease.seen_ns().max(lent)
        };
        let oldest = shard
            .iter()
            .take(LOOKED_AT)
            .min_by_key(|(_, entry)| {
                (!entry.waiting.is_empty(), !entry.lease.may_be_forgotten(), seen_ns(entry))
            })
            .map(|(hash, _)| *hash);
        let removed = oldest.and_then(|hash| shard.remove(&hash));
        if let Some(place) = removed.and_then(|entry| entry.place) {
            self.slots.free(&place);
        }
    }
}
