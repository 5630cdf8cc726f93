//! The first level: entries in the memory of the process.
//!
//! Whatever changes what is held also changes the index, under the index's lock, so forgetting looks
//! only at what it means. Looking up does not touch the index.
//!
//! What says that something is not there has a budget of its own, in bytes: whoever asks for a million paths
//! that do not exist drives out no answer that does.

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
    Varies(Arc<Varying>),
    /// Answers under this key were not storable: do not make others wait for one.
    Pass {
        until_ms: u64,
    },
}

/// What the answers under a key vary by.
struct Varying {
    names: Box<[HeaderName]>,
    /// When the making of the newest of them began.
    made_at_ms: u64,
}

/// What is known of a request.
pub(crate) enum Found {
    Entry(Arc<Entry>),
    Pass,
    Nothing,
}

/// What a slot weighs.
#[derive(Clone)]
enum Scale {
    /// In entries.
    Entries,
    Bytes,
}

/// Bytes of a slot without an entry, about.
const EMPTY: u64 = 128;

impl Weighter<u64, Slot> for Scale {
    fn weight(&self, _: &u64, slot: &Slot) -> u64 {
        match (self, slot) {
            (Self::Entries, Slot::Entry(entry)) => entry.weight(),
            (Self::Entries, _) => 1,
            (Self::Bytes, Slot::Entry(entry)) => entry.size() as u64,
            (Self::Bytes, _) => EMPTY,
        }
    }
}

/// Bytes that negative answers may take.
const NEGATIVE_BYTES: u64 = 1024 * 1024;

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

type Slots = QuickCache<u64, Slot, Scale, foldhash::fast::RandomState, Gone>;

fn slots(room: u64, items: u64, scale: Scale, gone: &Gone) -> Slots {
    // Room is divided evenly between shards, rounded up: few of them keep the bound tight.
    let options = OptionsBuilder::new()
        .estimated_items_capacity(items as usize)
        .weight_capacity(room)
        .shards(4)
        .build()
        .expect("all that is required is given");
    Slots::with_options(options, scale, foldhash::fast::RandomState::default(), gone.clone())
}

pub(crate) struct Memory {
    slots: Slots,
    /// Negative answers, and keys under which nothing could be stored. A hash has an entry here or in `slots`.
    negative: Slots,
    max_entries: AtomicU64,
    gone: Gone,
    index: Mutex<Index>,
    hasher: SeedableRandomState,
}

impl Memory {
    /// The same seed gives the same hashes: nobody outside may know that of a real one.
    pub(crate) fn new(max_entries: u64, seed: u64) -> Self {
        let gone = Gone::default();
        Self {
            slots: slots(max_entries, max_entries.min(10_000), Scale::Entries, &gone),
            negative: slots(NEGATIVE_BYTES, NEGATIVE_BYTES / 1024, Scale::Bytes, &gone),
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
        let first = self.slots.get(&hash);
        // Most requests end here.
        if let Some(Slot::Entry(entry)) = first {
            return if entry.answers(tenant, uri, headers) { Found::Entry(entry) } else { Found::Nothing };
        }
        let variant = |slots: &Slots, slot: Option<Slot>| match slot {
            Some(Slot::Varies(varying)) => slots.get(&self.variant(hash, &varying.names, headers)),
            slot => slot,
        };
        let found = variant(&self.slots, first);
        match found.or_else(|| variant(&self.negative, self.negative.get(&hash))) {
            Some(Slot::Entry(entry)) if entry.answers(tenant, uri, headers) => Found::Entry(entry),
            Some(Slot::Pass { until_ms }) if now_ms < until_ms => Found::Pass,
            _ => Found::Nothing,
        }
    }

    /// When the making of the newest answer under a hash began, whatever that varies by.
    pub(crate) fn newest_ms(&self, hash: u64) -> Option<u64> {
        let newest_ms = |slots: &Slots| match slots.peek(&hash)? {
            Slot::Entry(entry) => Some(entry.made_at_ms),
            Slot::Varies(varying) => Some(varying.made_at_ms),
            Slot::Pass { .. } => None,
        };
        newest_ms(&self.slots).max(newest_ms(&self.negative))
    }

    pub(crate) fn insert(&self, entry: Arc<Entry>, request_headers: &HeaderMap) {
        let hash = self.hash(&entry.key.tenant, &entry.key.uri);
        let (own, other) = self.both(&entry);
        let mut index = self.index.lock();
        if entry.vary.is_empty() {
            Self::clear(&mut index, other, hash, |_| true);
            self.put(&mut index, hash, entry);
        } else {
            let names: Box<[HeaderName]> = entry.vary.iter().map(|(name, _)| name.clone()).collect();
            let variant = self.variant(hash, &names, request_headers);
            // An answer for everybody is replaced; others for other values stay.
            for slots in [own, other] {
                Self::clear(&mut index, slots, hash, |slot| !matches!(slot, Slot::Varies(_)));
            }
            Self::clear(&mut index, other, variant, |_| true);
            own.insert(hash, Slot::Varies(Arc::new(Varying { names, made_at_ms: entry.made_at_ms })));
            self.put(&mut index, variant, entry);
        }
    }

    /// The slots that an entry belongs to, and the others.
    fn both(&self, entry: &Entry) -> (&Slots, &Slots) {
        if entry.is_negative() { (&self.negative, &self.slots) } else { (&self.slots, &self.negative) }
    }

    fn put(&self, index: &mut Index, hash: u64, entry: Arc<Entry>) {
        let (slots, _) = self.both(&entry);
        slots.insert(hash, Slot::Entry(Arc::clone(&entry)));
        self.tell_gone(index);
        // One for which there is no room is gone already.
        if matches!(slots.peek(&hash), Some(Slot::Entry(held)) if Arc::ptr_eq(&held, &entry)) {
            index.add(hash, &entry);
        }
    }

    /// Takes out what stands under a hash, if it is meant. Whether that was an entry.
    fn clear(index: &mut Index, slots: &Slots, hash: u64, meant: impl Fn(&Slot) -> bool) -> bool {
        let Some((_, Slot::Entry(entry))) = slots.remove_if(&hash, meant) else { return false };
        index.remove(hash, &entry);
        true
    }

    pub(crate) fn pass(&self, hash: u64, until_ms: u64) {
        let mut index = self.index.lock();
        // An answer that is there may yet stand in for one that fails.
        if self.slots.peek(&hash).is_none()
            && matches!(self.negative.peek(&hash), None | Some(Slot::Pass { .. }))
        {
            self.negative.insert(hash, Slot::Pass { until_ms });
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
            let found =
                [&self.slots, &self.negative].map(|slots| Self::clear(&mut index, slots, hash, meant));
            removed += usize::from(found.contains(&true));
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
        made(StatusCode::OK, path, tags, vary, size)
    }

    fn made(status: StatusCode, path: usize, tags: &[&str], vary: bool, size: usize) -> Arc<Entry> {
        let storable = Storable {
            lifetime: None,
            max_age: None,
            public: false,
            must_revalidate: false,
            stale_while_revalidate: None,
            stale_if_error: None,
            age: std::time::Duration::ZERO,
            vary: vec![],
        };
        Arc::new(Entry {
            key: Key { tenant: "".into(), uri: format!("/a{}/{path}?x", path % 3).into() },
            vary: if vary { vec![(LANGUAGE, Some(HeaderValue::from_static("de")))] } else { vec![] },
            status,
            headers: HeaderMap::new(),
            body: vec![b'x'; size].into(),
            storable,
            made_at_ms: 0,
            jitter: 1.0,
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            label: Box::default(),
        })
    }

    fn de() -> HeaderMap {
        HeaderMap::from_iter([(LANGUAGE, HeaderValue::from_static("de"))])
    }

    /// Slow and sure.
    fn held(memory: &Memory) -> Vec<Arc<Entry>> {
        let slots = memory.slots.iter().chain(memory.negative.iter());
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

    #[test]
    fn paths_that_do_not_exist_drive_out_no_answer_that_does() {
        let memory = Memory::new(100, 0);
        for path in 0..100 {
            memory.insert(answer(path, &[], false, 0), &HeaderMap::new());
        }
        let before = memory.len();
        for path in 1_000..21_000 {
            memory.insert(made(StatusCode::NOT_FOUND, path, &[], false, 100), &HeaderMap::new());
            memory.pass(path as u64, 1);
        }
        let (negative, others): (Vec<_>, Vec<_>) =
            held(&memory).into_iter().partition(|entry| entry.is_negative());
        assert_eq!((others.len(), negative.len()), (before, memory.len() - before));
        let bytes: usize = negative.iter().map(|entry| entry.size()).sum();
        assert!((1..=NEGATIVE_BYTES as usize).contains(&bytes), "{bytes}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { path: usize, tag: bool, vary: bool, size: usize, negative: bool },
        Pass(usize),
        Room(u64),
        Remove(Invalidation),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (
                (0..30_usize, any::<bool>()),
                (any::<bool>(), prop_oneof![Just(0), Just(20_000), Just(400_000)], any::<bool>()),
            )
                .prop_map(|((path, tag), (vary, size, negative))| Step::Insert { path, tag, vary, size, negative }),
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
                    Step::Insert { path, tag, vary, size, negative } => {
                        let status = if negative { StatusCode::NOT_FOUND } else { StatusCode::OK };
                        let tags: &[&str] = if tag { &["red", "blue"] } else { &[] };
                        let new = made(status, path, tags, vary, size);
                        memory.insert(Arc::clone(&new), &de());
                        let found = memory.find(memory.hash("", &new.key.uri), "", &new.key.uri, &de(), 0);
                        if let Found::Entry(found) = found {
                            prop_assert!(Arc::ptr_eq(&found, &new), "an older one is found");
                        }
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
