//! Cost of a hit in memory: hashing, lookup, comparison of the whole key, and freshness, with 1,000 and with
//! 10,000 responses requested in random order. And cost of a miss that is fetched and stored.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    convert::Infallible,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    hint::black_box,
    time::Duration,
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{Request, Response, Uri};
use http_body_util::Full;
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer};
use tower::{Layer, ServiceExt, service_fn};

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

async fn get(cache: &Cache, target: Uri) {
    let layer = HttpCacheLayer::new(cache.clone(), "bench", ACCESSORS);
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[b'x'; 250]))))
    });
    let mut request = Request::new(Full::default());
    *request.uri_mut() = target;
    let Ok(_) = layer.layer(handler).oneshot(request).await;
}

/// Creates a runtime of one thread: waking another one would cost more than the code under test.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O can be built")
}

/// Returns a cache that holds a response for each target.
fn filled(targets: &[Uri]) -> Cache {
    let cache = Cache::new(None);
    runtime().block_on(async {
        for target in targets {
            get(&cache, target.clone()).await;
        }
    });
    cache
}

fn hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache_hit");
    group.throughput(Throughput::Elements(1));
    let headers = http::HeaderMap::new();
    for count in [1_000, 10_000] {
        let target = |number: &usize| -> Uri {
            format!("/api/v1/budget/metrics/cohort-{number:05}").parse().expect("a valid path")
        };
        let mut numbers: Vec<usize> = (0..count).collect();
        let cache = filled(&numbers.iter().map(target).collect::<Vec<_>>());
        // Requested in an order unrelated to that of storing. The targets are allocated in the order of the
        // requests, as those of real requests are in the processor's cache.
        let order = BuildHasherDefault::<DefaultHasher>::default();
        numbers.sort_by_cached_key(|number| order.hash_one(number));
        let targets: Vec<Uri> = numbers.iter().map(target).collect();
        assert!(targets.iter().all(|target| cache.get_fresh("", target, &headers, &POLICY).is_some()));
        let mut requests = targets.iter().cycle();
        group.bench_function(format!("{count}_keys"), |b| {
            b.iter(|| {
                let target = requests.next().expect("a cycle has no end");
                cache.get_fresh("", black_box(target), &headers, &POLICY)
            });
        });
    }
    group.finish();
}

fn miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache_miss");
    group.throughput(Throughput::Elements(1));
    let (cache, runtime) = (Cache::new(None), runtime());
    let mut targets =
        (0..).map(|number| format!("/api/v1/budget/metrics/{number}").parse().expect("a valid path"));
    group.bench_function("stored", |b| {
        b.iter(|| runtime.block_on(get(&cache, targets.next().expect("the range is unbounded"))));
    });
    group.finish();
}

criterion_group!(benches, hit, miss);
criterion_main!(benches);
