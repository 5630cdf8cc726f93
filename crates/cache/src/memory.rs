//! The first level: entries in the memory of the process.
//!
//! Whatever changes what is held also changes the index, under the index's lock, so forgetting looks
//! only at what it means. Looking up does not touch the index.

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

use crate::{Entry, Invalidation, entry::sent, index::Index};

/// What stands under a hash.
#[derive(Clone)]
enum Slot {
    Entry(Arc<Entry>),
    /// The answer depends on these request headers: look again with their values.
    Varies {
        names: Arc<[HeaderName]>,
        /// When the making of the newest answer under this key began.
        made_at_ms: u64,
    },
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
            Slot::Varies { .. } | Slot::Pass { .. } => 1,
        }
    }
}

/// Keeps the entries that left by themselves until the index has been told.
#[derive(Clone, Default)]
struct Gone(Arc<Mutex<Vec<Held>>>);

/// An entry and the hash it is held under.
type Held = (u64, Arc<Entry>);

impl Lifecycle<u64, Slot> for Gone {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), hash: u64, slot: Slot) {
        if let Slot::Entry(entry) = slot {
            self.0.lock().push((hash, entry));
        }
    }
}

pub(crate) struct Memory {
    slots: QuickCache<u64, Slot, ByWeight, foldhash::fast::RandomState, Gone>,
    max_entries: AtomicU64,
    gone: Gone,
    index: Mutex<Index>,
    hasher: SeedableRandomState,
}

impl Memory {
    /// The same seed gives the same hashes: nobody outside may know that of a real one.
    pub(crate) fn new(max_entries: u64, seed: u64) -> Self {
        // Room is divided evenly between shards, rounded up: few of them keep the bound tight.
        let options = OptionsBuilder::new()
            .estimated_items_capacity(max_entries.min(10_000) as usize)
            .weight_capacity(max_entries)
            .shards(4)
            .build()
            .expect("all that is required is given");
        let gone = Gone::default();
        Self {
            slots: QuickCache::with_options(
                options,
                ByWeight,
                foldhash::fast::RandomState::default(),
                gone.clone(),
            ),
            max_entries: AtomicU64::new(max_entries),
            gone,
            index: Mutex::default(),
            hasher: SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
        }
    }

    pub(crate) fn set_max_entries(&self, max_entries: u64) {
        // On the path of every request. Not the room that there is: that is rounded up.
        if self.max_entries.load(Ordering::Relaxed) == max_entries {
            return;
        }
        let mut index = self.index.lock();
        self.max_entries.store(max_entries, Ordering::Relaxed);
        self.slots.set_capacity(max_entries);
        self.tell_gone(&mut index);
    }

    fn tell_gone(&self, index: &mut Index) {
        for (hash, entry) in self.gone.0.lock().drain(..) {
            index.remove(hash, &entry);
        }
    }

    pub(crate) fn hash(&self, tenant: &str, uri: &str) -> u64 {
        self.hasher.hash_one((tenant, uri))
    }

    /// The part of a full life that what is asked for under a hash at some time has, from 0.9 to 1.
    pub(crate) fn jitter(&self, hash: u64, now_ms: u64) -> f64 {
        1.0 - self.hasher.hash_one((hash, now_ms)) as f64 / u64::MAX as f64 * 0.1
    }

    fn variant(&self, hash: u64, names: &[HeaderName], headers: &HeaderMap) -> u64 {
        self.hasher.hash_one((hash, names.iter().map(|name| sent(headers, name)).collect::<Vec<_>>()))
    }

    /// What is stored for a request. The whole key is compared, so two keys of one hash never
    /// answer for each other.
    pub(crate) fn find(&self, hash: u64, tenant: &str, uri: &str, headers: &HeaderMap, now_ms: u64) -> Found {
        let mut slot = self.slots.get(&hash);
        if let Some(Slot::Varies { names, .. }) = &slot {
            slot = self.slots.get(&self.variant(hash, names, headers));
        }
        match slot {
            Some(Slot::Entry(entry)) if entry.answers(tenant, uri, headers) => Found::Entry(entry),
            Some(Slot::Pass { until_ms }) if now_ms < until_ms => Found::Pass,
            _ => Found::Nothing,
        }
    }

    /// When the making of the newest answer under a hash began, whatever that varies by.
    pub(crate) fn newest_ms(&self, hash: u64) -> Option<u64> {
        match self.slots.peek(&hash)? {
            Slot::Entry(entry) => Some(entry.made_at_ms),
            Slot::Varies { made_at_ms, .. } => Some(made_at_ms),
            Slot::Pass { .. } => None,
        }
    }

    pub(crate) fn insert(&self, entry: Arc<Entry>, request_headers: &HeaderMap) {
        let hash = self.hash(&entry.key.tenant, &entry.key.uri);
        let mut index = self.index.lock();
        if entry.vary.is_empty() {
            self.put(&mut index, hash, entry);
        } else {
            let names: Arc<[HeaderName]> = entry.vary.iter().map(|(name, _)| name.clone()).collect();
            let variant = self.variant(hash, &names, request_headers);
            self.slots.insert(hash, Slot::Varies { names, made_at_ms: entry.made_at_ms });
            self.put(&mut index, variant, entry);
        }
    }

    fn put(&self, index: &mut Index, hash: u64, entry: Arc<Entry>) {
        self.slots.insert(hash, Slot::Entry(Arc::clone(&entry)));
        self.tell_gone(index);
        // One for which there is no room is gone already.
        if matches!(self.slots.peek(&hash), Some(Slot::Entry(held)) if Arc::ptr_eq(&held, &entry)) {
            index.add(hash, &entry);
        }
    }

    pub(crate) fn pass(&self, hash: u64, until_ms: u64) {
        let mut index = self.index.lock();
        // An answer that is there may yet stand in for one that fails.
        if matches!(self.slots.peek(&hash), None | Some(Slot::Pass { .. })) {
            self.slots.insert(hash, Slot::Pass { until_ms });
            self.tell_gone(&mut index);
        }
    }

    /// Forgets; gives the number of answers that went. Part of every unsafe request, so its work is
    /// that of the answers meant, however many others there are.
    pub(crate) fn remove(&self, invalidation: &Invalidation) -> usize {
        let mut index = self.index.lock();
        let mut removed = 0;
        for hash in index.meant(invalidation) {
            let meant = |slot: &Slot| matches!(slot, Slot::Entry(entry) if invalidation.means(entry));
            if let Some((_, Slot::Entry(entry))) = self.slots.remove_if(&hash, meant) {
                index.remove(hash, &entry);
                removed += 1;
            }
        }
        removed
    }

    pub(crate) fn len(&self) -> usize {
        self.index.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::{Key, invalidation::HELD_AGAINST, rfc9111::Storable};

    const LANGUAGE: HeaderName = http::header::ACCEPT_LANGUAGE;

    fn answer(path: usize, tags: &[&str], vary: bool, size: usize) -> Arc<Entry> {
        let storable = Storable {
            lifetime: None,
            must_revalidate: false,
            stale_while_revalidate: None,
            stale_if_error: None,
            age: std::time::Duration::ZERO,
            vary: vec![],
        };
        Arc::new(Entry {
            key: Key { tenant: "".into(), uri: format!("/a{}/{path}?x", path % 3).into() },
            vary: if vary { vec![(LANGUAGE, Some(HeaderValue::from_static("de")))] } else { vec![] },
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: vec![b'x'; size].into(),
            storable,
            made_at_ms: 0,
            jitter: 1.0,
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            label: 0,
        })
    }

    fn de() -> HeaderMap {
        HeaderMap::from_iter([(LANGUAGE, HeaderValue::from_static("de"))])
    }

    /// Slow and sure.
    fn held(memory: &Memory) -> Vec<Arc<Entry>> {
        let slots = memory.slots.iter();
        slots.filter_map(|(_, slot)| if let Slot::Entry(entry) = slot { Some(entry) } else { None }).collect()
    }

    /// Forgetting once looked at every answer there was, inside every unsafe request.
    #[test]
    fn forgetting_looks_only_at_what_it_means() {
        let memory = Memory::new(20_000, 0);
        for path in 0..10_000 {
            memory
                .insert(answer(path, &[if path < 5 { "few" } else { "many" }], false, 0), &HeaderMap::new());
        }
        HELD_AGAINST.set(0);
        assert_eq!(memory.remove(&Invalidation::Path("/a1/7".into())), 1);
        assert_eq!(memory.remove(&Invalidation::Path("/a1/8".into())), 0, "it is called /a2/8");
        assert_eq!(memory.remove(&Invalidation::Tag("few".into())), 5);
        assert_eq!(memory.remove(&Invalidation::Prefix("/a2/11".into())), 1);
        assert_eq!(HELD_AGAINST.get(), 7);
        assert_eq!(memory.len(), 9_993);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { path: usize, tag: bool, vary: bool, size: usize },
        Pass(usize),
        Room(u64),
        Remove(Invalidation),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..30_usize, any::<bool>(), any::<bool>(), prop_oneof![Just(0), Just(20_000), Just(400_000)])
                .prop_map(|(path, tag, vary, size)| Step::Insert { path, tag, vary, size }),
            1 => (0..30_usize).prop_map(Step::Pass),
            1 => (1..40_u64).prop_map(Step::Room),
            2 => prop_oneof![
                Just(Invalidation::All),
                Just(Invalidation::Tag("red".into())),
                (0..3).prop_map(|n| Invalidation::Prefix(format!("/a{n}"))),
                Just(Invalidation::Prefix("/".into())),
                (0..30).prop_map(|path| Invalidation::Path(format!("/a{}/{path}", path % 3))),
            ].prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn the_index_names_what_is_held_and_nothing_else(steps in proptest::collection::vec(step(), 0..80)) {
            let memory = Memory::new(20, 0);
            for step in steps {
                match step {
                    Step::Insert { path, tag, vary, size } => {
                        memory.insert(answer(path, if tag { &["red", "blue"] } else { &[] }, vary, size), &de());
                    }
                    Step::Pass(path) => memory.pass(memory.hash("", &answer(path, &[], false, 0).key.uri), 1),
                    Step::Room(entries) => memory.set_max_entries(entries),
                    Step::Remove(invalidation) => {
                        let meant = held(&memory).iter().filter(|entry| invalidation.means(entry)).count();
                        prop_assert_eq!(memory.remove(&invalidation), meant);
                    }
                }
                let held = held(&memory);
                let red = held.iter().filter(|entry| !entry.tags.is_empty()).count();
                let index = memory.index.lock();
                prop_assert_eq!(index.len(), held.len());
                prop_assert_eq!(index.meant(&Invalidation::All).len(), held.len());
                prop_assert_eq!(index.meant(&Invalidation::Tag("red".into())).len(), red);
            }
        }
    }
}
