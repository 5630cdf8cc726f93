//! First cache level: entries in the memory of the process.
//!
//! Every change of the entries also updates the index, under the index's lock, so an invalidation visits only
//! the entries that it matches. A lookup does not touch the index.
//!
//! Negative responses and hit-for-pass marks have a separate byte budget: requests for any number of
//! paths that do not exist evict no response that does.

use std::{
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::{SharedSeed, quality::SeedableRandomState};
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync::Cache as QuickCache};

use crate::{Entry, Invalidation, entry::combined_value, index::Index};

#[cfg(test)]
mod tests;

/// Content stored under a hash.
#[derive(Clone)]
enum Slot {
    Entry(Arc<Entry>),
    /// The responses under this key vary: the lookup continues under a hash that includes the selecting
    /// headers.
    Vary(Arc<VaryingKey>),
    /// Responses under this key were not storable, so requests for it do not wait for each other.
    HitForPass {
        until_ms: u64,
    },
}

/// Key whose responses vary on request headers.
struct VaryingKey {
    names: Box<[HeaderName]>,
    /// Start of the fetch of the newest response, in milliseconds.
    newest_ms: u64,
}

/// Result of a lookup in memory.
pub(crate) enum MemoryLookup {
    Entry(Arc<Entry>),
    HitForPass,
    Miss,
}

/// Unit in which slots are weighed.
#[derive(Clone)]
enum SlotWeigher {
    Entries,
    Bytes,
}

/// Approximate size, in bytes, of a slot without an entry.
const EMPTY_SLOT_BYTES: u64 = 128;

impl Weighter<u64, Slot> for SlotWeigher {
    fn weight(&self, _: &u64, slot: &Slot) -> u64 {
        match (self, slot) {
            (Self::Entries, Slot::Entry(entry)) => entry.weight(),
            (Self::Entries, _) => 1,
            (Self::Bytes, Slot::Entry(entry)) => entry.size() as u64,
            (Self::Bytes, _) => EMPTY_SLOT_BYTES,
        }
    }
}

/// Byte budget of negative responses and hit-for-pass marks.
const NEGATIVE_BYTES: u64 = 1024 * 1024;

/// Collects evicted entries until they are removed from the index.
#[derive(Clone, Default)]
struct Evictions(Arc<Mutex<Vec<EvictedEntry>>>);

struct EvictedEntry {
    hash: u64,
    entry: Arc<Entry>,
}

impl Lifecycle<u64, Slot> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), hash: u64, slot: Slot) {
        if let Slot::Entry(entry) = slot {
            self.0.lock().push(EvictedEntry { hash, entry });
        }
    }
}

type SlotCache = QuickCache<u64, Slot, SlotWeigher, foldhash::fast::RandomState, Evictions>;

fn slots(capacity: u64, estimated_items: u64, weigher: SlotWeigher, evictions: &Evictions) -> SlotCache {
    // The capacity is divided evenly between shards and rounded up, so few shards keep the bound tight.
    let options = OptionsBuilder::new()
        .estimated_items_capacity(estimated_items as usize)
        .weight_capacity(capacity)
        .shards(4)
        .build()
        .expect("every required option is set");
    SlotCache::with_options(options, weigher, foldhash::fast::RandomState::default(), evictions.clone())
}

/// Entries of one cache, by the hash of their key.
pub(crate) struct Memory {
    slots: SlotCache,
    /// Negative responses and hit-for-pass marks. A hash has an entry here or in `slots`, never in both.
    negative: SlotCache,
    max_entries: AtomicU64,
    evictions: Evictions,
    index: Mutex<Index>,
    hasher: SeedableRandomState,
}

impl Memory {
    /// Creates an empty memory. Equal seeds give equal hashes; the seed of a real cache must be secret, or
    /// clients could provoke collisions.
    pub(crate) fn new(max_entries: u64, seed: u64) -> Self {
        let evictions = Evictions::default();
        Self {
            slots: slots(max_entries, max_entries.min(10_000), SlotWeigher::Entries, &evictions),
            negative: slots(NEGATIVE_BYTES, NEGATIVE_BYTES / 1024, SlotWeigher::Bytes, &evictions),
            max_entries: AtomicU64::new(max_entries),
            evictions,
            index: Mutex::default(),
            hasher: SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
        }
    }

    pub(crate) fn set_max_entries(&self, max_entries: u64) {
        // Runs on every request. Compares with the last setting, because the capacity of `slots` is rounded
        // up.
        if self.max_entries.load(Ordering::Relaxed) == max_entries {
            return;
        }
        let mut index = self.index.lock();
        self.max_entries.store(max_entries, Ordering::Relaxed);
        self.slots.set_capacity(max_entries);
        self.unindex_evicted(&mut index);
    }

    fn unindex_evicted(&self, index: &mut Index) {
        for EvictedEntry { hash, entry } in self.evictions.0.lock().drain(..) {
            index.remove(hash, &entry);
        }
    }

    pub(crate) fn hash(&self, tenant: &str, uri: &str) -> u64 {
        self.hasher.hash_one((tenant, uri))
    }

    /// Returns the share of its freshness lifetime that a response fetched under a hash at `now_ms` gets,
    /// from 0.9 to 1.
    pub(crate) fn jitter(&self, hash: u64, now_ms: u64) -> f64 {
        1.0 - self.hasher.hash_one((hash, now_ms)) as f64 / u64::MAX as f64 * 0.1
    }

    fn variant_hash(&self, hash: u64, names: &[HeaderName], headers: &HeaderMap) -> u64 {
        let values = names.iter().map(|name| combined_value(headers, name)).collect::<Vec<_>>();
        self.hasher.hash_one((hash, values))
    }

    /// Looks up the entry for a request. The whole key is compared: a hash collision is a miss, never a wrong
    /// response.
    pub(crate) fn lookup(
        &self,
        hash: u64,
        tenant: &str,
        uri: &str,
        headers: &HeaderMap,
        now_ms: u64,
    ) -> MemoryLookup {
        let first = self.slots.get(&hash);
        // Most requests end here.
        if let Some(Slot::Entry(entry)) = first {
            return if entry.matches_request(tenant, uri, headers) {
                MemoryLookup::Entry(entry)
            } else {
                MemoryLookup::Miss
            };
        }
        let resolve_variant = |slots: &SlotCache, slot: Option<Slot>| match slot {
            Some(Slot::Vary(varying)) => slots.get(&self.variant_hash(hash, &varying.names, headers)),
            slot => slot,
        };
        let found = resolve_variant(&self.slots, first);
        match found.or_else(|| resolve_variant(&self.negative, self.negative.get(&hash))) {
            Some(Slot::Entry(entry)) if entry.matches_request(tenant, uri, headers) => {
                MemoryLookup::Entry(entry)
            }
            Some(Slot::HitForPass { until_ms }) if now_ms < until_ms => MemoryLookup::HitForPass,
            _ => MemoryLookup::Miss,
        }
    }

    /// Returns the start of the fetch of the newest response under a hash, in milliseconds, over all
    /// variants.
    pub(crate) fn newest_ms(&self, hash: u64) -> Option<u64> {
        let newest_ms = |slots: &SlotCache| match slots.peek(&hash)? {
            Slot::Entry(entry) => Some(entry.fetch_started_at_ms),
            Slot::Vary(varying) => Some(varying.newest_ms),
            Slot::HitForPass { .. } => None,
        };
        newest_ms(&self.slots).max(newest_ms(&self.negative))
    }

    pub(crate) fn insert(&self, entry: Arc<Entry>, request_headers: &HeaderMap) {
        let hash = self.hash(&entry.key.tenant, &entry.key.uri);
        let own = self.slots_for(entry.is_negative());
        let other = self.slots_for(!entry.is_negative());
        let mut index = self.index.lock();
        if entry.vary.is_empty() {
            Self::remove_if(&mut index, other, hash, |_| true);
            self.put(&mut index, hash, entry);
        } else {
            let names: Box<[HeaderName]> = entry.vary.iter().map(|(name, _)| name.clone()).collect();
            let variant = self.variant_hash(hash, &names, request_headers);
            // Replaces a response that did not vary; variants for other values stay.
            for slots in [own, other] {
                Self::remove_if(&mut index, slots, hash, |slot| !matches!(slot, Slot::Vary(_)));
            }
            Self::remove_if(&mut index, other, variant, |_| true);
            let newest_ms = entry.fetch_started_at_ms;
            own.insert(hash, Slot::Vary(Arc::new(VaryingKey { names, newest_ms })));
            self.put(&mut index, variant, entry);
        }
    }

    fn slots_for(&self, negative: bool) -> &SlotCache {
        if negative { &self.negative } else { &self.slots }
    }

    fn put(&self, index: &mut Index, hash: u64, entry: Arc<Entry>) {
        let slots = self.slots_for(entry.is_negative());
        slots.insert(hash, Slot::Entry(Arc::clone(&entry)));
        self.unindex_evicted(index);
        // An entry that exceeds the capacity has been evicted already.
        if matches!(slots.peek(&hash), Some(Slot::Entry(held)) if Arc::ptr_eq(&held, &entry)) {
            index.add(hash, &entry);
        }
    }

    /// Removes the slot under a hash if `condition` holds for it. Returns true if it held an entry.
    fn remove_if(index: &mut Index, slots: &SlotCache, hash: u64, condition: impl Fn(&Slot) -> bool) -> bool {
        let Some((_, Slot::Entry(entry))) = slots.remove_if(&hash, condition) else { return false };
        index.remove(hash, &entry);
        true
    }

    pub(crate) fn mark_hit_for_pass(&self, hash: u64, until_ms: u64) {
        let mut index = self.index.lock();
        // A stored entry stays: it may still be served after an error.
        if self.slots.peek(&hash).is_none()
            && matches!(self.negative.peek(&hash), None | Some(Slot::HitForPass { .. }))
        {
            self.negative.insert(hash, Slot::HitForPass { until_ms });
            self.unindex_evicted(&mut index);
        }
    }

    /// Removes the entries that an invalidation matches, and returns their number. Runs within every unsafe
    /// request, so its cost depends on the number of matching entries only.
    pub(crate) fn remove(&self, invalidation: &Invalidation) -> usize {
        let mut index = self.index.lock();
        let mut removed = 0;
        for hash in index.matching(invalidation) {
            let matches = |slot: &Slot| matches!(slot, Slot::Entry(entry) if invalidation.matches(entry));
            let found =
                [&self.slots, &self.negative].map(|slots| Self::remove_if(&mut index, slots, hash, matches));
            removed += usize::from(found.contains(&true));
        }
        removed
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.index.lock().len()
    }
}
