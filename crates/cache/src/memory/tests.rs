use http::{HeaderValue, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::{Key, invalidation::MATCH_CALLS, rfc9111::ResponseDirectives};

const LANGUAGE: HeaderName = http::header::ACCEPT_LANGUAGE;

/// Properties of an entry that a test varies.
#[derive(Clone, Copy, Debug)]
struct Spec {
    status: StatusCode,
    tags: &'static [&'static str],
    vary: bool,
    body_bytes: usize,
}

const PLAIN: Spec = Spec { status: StatusCode::OK, tags: &[], vary: false, body_bytes: 0 };

fn entry(path: usize, spec: Spec) -> Arc<Entry> {
    let directives = ResponseDirectives {
        lifetime: None,
        max_age: None,
        public: false,
        must_revalidate: false,
        stale_while_revalidate: None,
        stale_if_error: None,
        received_age: std::time::Duration::ZERO,
        vary: vec![],
    };
    Arc::new(Entry {
        key: Key { tenant: "".into(), uri: format!("/a{}/{path}?x", path % 3).into() },
        vary: if spec.vary { vec![(LANGUAGE, Some(HeaderValue::from_static("de")))] } else { vec![] },
        status: spec.status,
        headers: HeaderMap::new(),
        body: vec![b'x'; spec.body_bytes].into(),
        directives,
        fetch_started_at_ms: 0,
        jitter: 1.0,
        tags: spec.tags.iter().map(|tag| (*tag).into()).collect(),
        label: Box::default(),
    })
}

fn german() -> HeaderMap {
    HeaderMap::from_iter([(LANGUAGE, HeaderValue::from_static("de"))])
}

/// Returns all entries, by a scan that does not use the index.
fn scan(memory: &Memory) -> Vec<Arc<Entry>> {
    let slots = memory.slots.iter().chain(memory.negative.iter());
    slots.filter_map(|(_, slot)| if let Slot::Entry(entry) = slot { Some(entry) } else { None }).collect()
}

/// An invalidation once compared every entry in memory, within every unsafe request.
#[test]
fn an_invalidation_visits_only_the_entries_that_it_matches() {
    let memory = Memory::new(20_000, 0);
    for path in 0..10_000 {
        let tags: &[&str] = if path < 5 { &["few"] } else { &["many"] };
        memory.insert(entry(path, Spec { tags, ..PLAIN }), &HeaderMap::new());
    }
    MATCH_CALLS.set(0);
    assert_eq!(memory.remove(&Invalidation::Path("/a1/7".into())), 1);
    assert_eq!(memory.remove(&Invalidation::Path("/a1/8".into())), 0, "the path of entry 8 is /a2/8");
    assert_eq!(memory.remove(&Invalidation::Tag("few".into())), 5);
    assert_eq!(memory.remove(&Invalidation::Prefix("/a2/11".into())), 1);
    assert_eq!(MATCH_CALLS.get(), 7);
    assert_eq!(memory.len(), 9_993);
}

#[test]
fn negative_responses_do_not_evict_positive_ones() {
    let memory = Memory::new(100, 0);
    for path in 0..100 {
        memory.insert(entry(path, PLAIN), &HeaderMap::new());
    }
    let before = memory.len();
    for path in 1_000..21_000 {
        let not_found = Spec { status: StatusCode::NOT_FOUND, body_bytes: 100, ..PLAIN };
        memory.insert(entry(path, not_found), &HeaderMap::new());
        memory.mark_hit_for_pass(path as u64, 1);
    }
    let (negative, positive): (Vec<_>, Vec<_>) =
        scan(&memory).into_iter().partition(|entry| entry.is_negative());
    assert_eq!((positive.len(), negative.len()), (before, memory.len() - before));
    let bytes: usize = negative.iter().map(|entry| entry.size()).sum();
    assert!((1..=NEGATIVE_BYTES as usize).contains(&bytes), "{bytes}");
}

#[derive(Clone, Debug)]
enum Step {
    Insert { path: usize, spec: Spec },
    MarkHitForPass { path: usize },
    SetMaxEntries(u64),
    Remove(Invalidation),
}

fn step() -> impl Strategy<Value = Step> {
    let spec =
        (any::<bool>(), any::<bool>(), prop_oneof![Just(0), Just(20_000), Just(400_000)], any::<bool>())
            .prop_map(|(has_tags, vary, body_bytes, is_negative)| Spec {
                status: if is_negative { StatusCode::NOT_FOUND } else { StatusCode::OK },
                tags: if has_tags { &["red", "blue"] } else { &[] },
                vary,
                body_bytes,
            });
    prop_oneof![
        8 => (0..30_usize, spec).prop_map(|(path, spec)| Step::Insert { path, spec }),
        1 => (0..30_usize).prop_map(|path| Step::MarkHitForPass { path }),
        1 => (1..40_u64).prop_map(Step::SetMaxEntries),
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
    fn the_index_contains_exactly_the_entries_in_memory(steps in proptest::collection::vec(step(), 0..80)) {
        let memory = Memory::new(20, 0);
        for step in steps {
            match step {
                Step::Insert { path, spec } => {
                    let new = entry(path, spec);
                    memory.insert(Arc::clone(&new), &german());
                    let hash = memory.hash("", &new.key.uri);
                    let found = memory.lookup(hash, "", &new.key.uri, &german(), 0);
                    if let MemoryLookup::Entry(found) = found {
                        prop_assert!(Arc::ptr_eq(&found, &new), "found an older entry");
                    }
                }
                Step::MarkHitForPass { path } => {
                    memory.mark_hit_for_pass(memory.hash("", &entry(path, PLAIN).key.uri), 1);
                }
                Step::SetMaxEntries(max_entries) => memory.set_max_entries(max_entries),
                Step::Remove(invalidation) => {
                    let matching =
                        scan(&memory).iter().filter(|entry| invalidation.matches(entry)).count();
                    prop_assert_eq!(memory.remove(&invalidation), matching);
                }
            }
            let entries = scan(&memory);
            let red = entries.iter().filter(|entry| !entry.tags.is_empty()).count();
            let index = memory.index.lock();
            prop_assert_eq!(index.len(), entries.len());
            prop_assert_eq!(index.matching(&Invalidation::All).len(), entries.len());
            prop_assert_eq!(index.matching(&Invalidation::Tag("red".into())).len(), red);
        }
    }
}
