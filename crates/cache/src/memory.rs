//! The first level: entries in the memory of the process.

use std::{hash::BuildHasher, sync::Arc};

use foldhash::quality::RandomState;
use http::{HeaderMap, HeaderName};
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache as QuickCache, DefaultLifecycle},
};

use crate::{Entry, Invalidation};

/// What stands under a hash.
#[derive(Clone)]
enum Slot {
    Entry(Arc<Entry>),
    /// The answer depends on these request headers: look again with their values.
    Varies(Arc<[HeaderName]>),
    /// Answers under this key were not storable: do not make others wait for one.
    Pass {
        until_ms: u64,
    },
}

/// What is known of a request.
pub(crate) enum Found {
    Entry(Arc<Entry>),
    Pass,
    Nothing,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<u64, Slot> for ByWeight {
    fn weight(&self, _: &u64, slot: &Slot) -> u64 {
        match slot {
            Slot::Entry(entry) => entry.weight(),
            Slot::Varies(_) | Slot::Pass { .. } => 1,
        }
    }
}

pub(crate) struct Memory {
    slots: QuickCache<u64, Slot, ByWeight, foldhash::fast::RandomState>,
    hasher: RandomState,
}

impl Memory {
    pub(crate) fn new(max_entries: u64) -> Self {
        // Room is divided evenly between shards, rounded up: few of them keep the bound tight.
        let options = OptionsBuilder::new()
            .estimated_items_capacity(max_entries.min(10_000) as usize)
            .weight_capacity(max_entries)
            .shards(4)
            .build()
            .expect("all that is required is given");
        Self {
            slots: QuickCache::with_options(
                options,
                ByWeight,
                foldhash::fast::RandomState::default(),
                DefaultLifecycle::default(),
            ),
            hasher: RandomState::default(),
        }
    }

    pub(crate) fn set_max_entries(&self, max_entries: u64) {
        if self.slots.capacity() != max_entries {
            self.slots.set_capacity(max_entries);
        }
    }

    pub(crate) fn hash(&self, tenant: &str, uri: &str) -> u64 {
        self.hasher.hash_one((tenant, uri))
    }

    fn variant(&self, hash: u64, names: &[HeaderName], headers: &HeaderMap) -> u64 {
        self.hasher.hash_one((hash, names.iter().map(|name| headers.get(name)).collect::<Vec<_>>()))
    }

    /// What is stored for a request. The whole key is compared, so two keys of one hash never
    /// answer for each other.
    pub(crate) fn find(&self, hash: u64, tenant: &str, uri: &str, headers: &HeaderMap, now_ms: u64) -> Found {
        let mut slot = self.slots.get(&hash);
        if let Some(Slot::Varies(names)) = &slot {
            slot = self.slots.get(&self.variant(hash, names, headers));
        }
        match slot {
            Some(Slot::Entry(entry)) if entry.answers(tenant, uri, headers) => Found::Entry(entry),
            Some(Slot::Pass { until_ms }) if now_ms < until_ms => Found::Pass,
            _ => Found::Nothing,
        }
    }

    pub(crate) fn insert(&self, entry: Arc<Entry>, request_headers: &HeaderMap) {
        let hash = self.hash(&entry.key.tenant, &entry.key.uri);
        if entry.vary.is_empty() {
            self.slots.insert(hash, Slot::Entry(entry));
        } else {
            let names: Arc<[HeaderName]> = entry.vary.iter().map(|(name, _)| name.clone()).collect();
            let variant = self.variant(hash, &names, request_headers);
            self.slots.insert(hash, Slot::Varies(names));
            self.slots.insert(variant, Slot::Entry(entry));
        }
    }

    pub(crate) fn pass(&self, hash: u64, until_ms: u64) {
        self.slots.insert(hash, Slot::Pass { until_ms });
    }

    /// Forgets; gives the number of answers that went.
    pub(crate) fn remove(&self, invalidation: &Invalidation) -> usize {
        let removed = std::cell::Cell::new(0);
        self.slots.retain(|_, slot| match slot {
            Slot::Entry(entry) if invalidation.means(entry) => {
                removed.set(removed.get() + 1);
                false
            }
            _ => true,
        });
        removed.get()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Entry(_))).count()
    }
}
