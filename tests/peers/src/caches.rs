//! A hit among 1,000 responses, looked up by path in random order. The cache of Phase6 also checks the age of
//! the response and whether it matches the request.

use std::{
    convert::Infallible,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    hint::black_box,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::Full;
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer};
use tower::{Layer, ServiceExt, service_fn};

use crate::{Contender, compare};

const RESPONSES: usize = 1_000;
/// Times that every entry is read in a round.
const REPEATS: usize = 50;
const BODY: [u8; 250] = [b'x'; 250];

const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_hours(1),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 100_000,
};

const ACCESSORS: Accessors = Accessors {
    policy: |_| Some(&POLICY),
    client: |_| Client { tenant: "", has_credentials: false },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

async fn fill(cache: &Cache, target: &Uri) {
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&BODY))))
    });
    let mut request = Request::new(Full::default());
    *request.uri_mut() = target.clone();
    let Ok(_) = HttpCacheLayer::new(cache.clone(), "bench", ACCESSORS).layer(handler).oneshot(request).await;
}

pub fn run(rounds: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let order = BuildHasherDefault::<DefaultHasher>::default();
    let mut numbers: Vec<usize> = (0..RESPONSES).collect();
    numbers.sort_by_cached_key(|number| order.hash_one(number));
    let paths: Vec<String> =
        numbers.iter().map(|number| format!("/api/v1/budget/metrics/cohort-{number:05}")).collect();
    let targets: Vec<Uri> = paths.iter().map(|path| path.parse().expect("a path")).collect();
    let (body, hits) = (Arc::new(Bytes::from_static(&BODY)), (RESPONSES * REPEATS) as u64);

    let (cache, headers) = (Cache::new(None), HeaderMap::new());
    runtime.block_on(async {
        for target in &targets {
            fill(&cache, target).await;
        }
    });
    let phase6_round = || {
        for target in (0..REPEATS).flat_map(|_| &targets) {
            let found = cache.get_fresh("", black_box(target), &headers, &POLICY);
            assert!(black_box(found).is_some());
        }
        hits
    };

    let moka = moka::future::Cache::builder().max_capacity(100_000).time_to_live(POLICY.ttl).build();
    runtime.block_on(async {
        for path in &paths {
            moka.insert(path.clone(), Arc::clone(&body)).await;
        }
    });
    let moka_round = || {
        runtime.block_on(async {
            for path in (0..REPEATS).flat_map(|_| &paths) {
                assert!(black_box(moka.get(black_box(path.as_str())).await).is_some());
            }
        });
        hits
    };

    let quick = quick_cache::sync::Cache::new(100_000);
    paths.iter().for_each(|path| quick.insert(path.clone(), Arc::clone(&body)));
    let quick_cache_round = || {
        for path in (0..REPEATS).flat_map(|_| &paths) {
            assert!(black_box(quick.get(black_box(path.as_str()))).is_some());
        }
        hits
    };

    let foyer: foyer::Cache<String, Arc<Bytes>> = foyer::CacheBuilder::new(100_000).build();
    paths.iter().for_each(|path| {
        foyer.insert(path.clone(), Arc::clone(&body));
    });
    let foyer_round = || {
        for path in (0..REPEATS).flat_map(|_| &paths) {
            assert!(black_box(foyer.get(black_box(path.as_str()))).is_some());
        }
        hits
    };

    compare(
        "hit",
        rounds,
        vec![
            Contender::new("phase6", phase6_round),
            Contender::new("moka", moka_round),
            Contender::new("quick_cache", quick_cache_round),
            Contender::new("foyer", foyer_round),
        ],
    );
}
