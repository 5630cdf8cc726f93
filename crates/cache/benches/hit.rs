//! What a hit in memory costs: key, lookup, comparison of the whole key, judgement of its age; with
//! a thousand answers and with ten thousand, asked for in no order. And what a miss costs that is
//! fetched and stored.

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
use phase6_cache::{Ask, Cache, CacheLayer, Client, Terms};
use tower::{Layer, ServiceExt, service_fn};

const TERMS: Terms = Terms {
    ttl: Duration::from_hours(1),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 100_000,
};

const ASK: Ask = Ask {
    terms: |_| Some(&TERMS),
    client: |_| Client { tenant: "", authorised: false },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

async fn ask(cache: &Cache, target: Uri) {
    let layer = CacheLayer::new(cache.clone(), "bench", ASK);
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[b'x'; 250]))))
    });
    let mut request = Request::new(Full::default());
    *request.uri_mut() = target;
    let Ok(_) = layer.layer(handler).oneshot(request).await;
}

/// Of one thread: waking another one costs more than all that is measured.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// A cache that holds an answer for each of the targets.
fn filled(targets: &[Uri]) -> Cache {
    let cache = Cache::new(None);
    runtime().block_on(async {
        for target in targets {
            ask(&cache, target.clone()).await;
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
            format!("/api/v1/budget/metrics/cohort-{number:05}").parse().expect("a path")
        };
        let mut numbers: Vec<usize> = (0..count).collect();
        let cache = filled(&numbers.iter().map(target).collect::<Vec<_>>());
        // Asked for in an order that has nothing to do with how they were stored; what is asked
        // for comes with its request and is at hand.
        let order = BuildHasherDefault::<DefaultHasher>::default();
        numbers.sort_by_cached_key(|number| order.hash_one(number));
        let targets: Vec<Uri> = numbers.iter().map(target).collect();
        assert!(targets.iter().all(|target| cache.fresh("", target, &headers, &TERMS).is_some()));
        let mut asking = targets.iter().cycle();
        group.bench_function(format!("{count}_keys"), |b| {
            b.iter(|| {
                let target = asking.next().expect("a cycle has no end");
                cache.fresh("", black_box(target), &headers, &TERMS)
            });
        });
    }
    group.finish();
}

fn miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache_miss");
    group.throughput(Throughput::Elements(1));
    let (cache, runtime) = (Cache::new(None), runtime());
    let mut targets = (0..).map(|number| format!("/api/v1/budget/metrics/{number}").parse().expect("a path"));
    group.bench_function("stored", |b| {
        b.iter(|| runtime.block_on(ask(&cache, targets.next().expect("there is always one more"))));
    });
    group.finish();
}

criterion_group!(benches, hit, miss);
criterion_main!(benches);
