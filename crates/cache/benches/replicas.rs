//! Ten replicas of a cache over one Redis: what a hit costs where the second level stands behind it, how long
//! a crowd waits for a key that nobody holds, and for how long an answer lives on after it was forgotten.
//!
//! Needs `PHASE6_TEST_REDIS`. Prints one line of JSON for each case: what `cargo xtask bench` reads.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for a terminal, which cannot go on")]

use std::{
    convert::Infallible,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use phase6_cache::{Ask, Cache, CacheLayer, Client, Invalidation, Level, Remote, Terms};
use phase6_redis::Redis;
use serde_json::json;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};

const REPLICAS: usize = 10;
/// Callers at each replica that want the same key at once.
const CALLERS: usize = 100;
/// What a fetch takes.
const ORIGIN: Duration = Duration::from_millis(100);
const TAG: &str = "cohort";

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

struct Replica {
    cache: Cache,
    fetches: Arc<AtomicU64>,
}

impl Replica {
    async fn start(redis: Redis, fetches: &Arc<AtomicU64>) -> Self {
        let level = Arc::new(Remote::new(redis));
        let cache = Cache::new(Some(Arc::clone(&level) as Arc<dyn Level>));
        while !level.is_in_touch() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { cache, fetches: Arc::clone(fetches) }
    }

    /// Asks as a request does. The origin takes `takes`.
    fn get(&self, target: &Uri, takes: Duration) -> impl Future<Output = ()> + Send + 'static {
        let fetches = Arc::clone(&self.fetches);
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            let fetches = Arc::clone(&fetches);
            async move {
                fetches.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(takes).await;
                let mut answer = Response::new(Full::new(Bytes::from_static(&[b'x'; 250])));
                let headers = answer.headers_mut();
                headers.insert(HeaderName::from_static("surrogate-key"), HeaderValue::from_static(TAG));
                Ok::<_, Infallible>(answer)
            }
        });
        let mut request = Request::new(Full::default());
        *request.uri_mut() = target.clone();
        let answer = CacheLayer::new(self.cache.clone(), "bench", ASK).layer(handler).oneshot(request);
        async move {
            let Ok(_) = answer.await;
        }
    }

    fn holds(&self, target: &Uri) -> bool {
        self.cache.fresh("", target, &HeaderMap::new(), &TERMS).is_some()
    }
}

fn target(number: usize) -> Uri {
    format!("/api/v1/budget/metrics/cohort-{number:05}").parse().unwrap()
}

/// The value that so many of a hundred do not exceed.
fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

/// A hit in memory, in a replica that listens to what others forget, of answers that have tags.
async fn hit(replica: &Replica, rounds: usize) {
    let targets: Vec<Uri> = (0..1_000).map(target).collect();
    for target in &targets {
        replica.get(target, Duration::ZERO).await;
    }
    let headers = HeaderMap::new();
    let mut nanoseconds: Vec<f64> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            for target in &targets {
                black_box(replica.cache.fresh("", black_box(target), &headers, &TERMS));
            }
            begun.elapsed().as_nanos() as f64 / targets.len() as f64
        })
        .collect();
    assert!(targets.iter().all(|target| replica.holds(target)));
    println!("{}", json!({"case": "hit", "nanoseconds": percentile(&mut nanoseconds, 50)}));
}

/// Everybody wants what nobody holds.
async fn stampede(replicas: &[Replica], rounds: usize) {
    let fetches = || replicas[0].fetches.load(Ordering::Relaxed);
    let (mut waited, mut most) = (Vec::new(), 0);
    for round in 0..rounds {
        let (target, before) = (target(10_000 + round), fetches());
        let mut callers = JoinSet::new();
        for replica in replicas {
            for _ in 0..CALLERS {
                let asking = replica.get(&target, ORIGIN);
                callers.spawn(async move {
                    let begun = Instant::now();
                    asking.await;
                    begun.elapsed().as_secs_f64()
                });
            }
        }
        waited.extend(callers.join_all().await);
        most = most.max(fetches() - before);
    }
    let p99 = percentile(&mut waited, 99) / ORIGIN.as_secs_f64();
    let p50 = percentile(&mut waited, 50) / ORIGIN.as_secs_f64();
    println!("{}", json!({"case": "stampede", "fetches": most, "p50": p50, "p99": p99}));
}

/// One replica forgets, and says so when all have been told.
async fn forgetting(replicas: &[Replica], rounds: usize) {
    let mut milliseconds = Vec::new();
    for round in 0..rounds {
        let target = target(20_000 + round);
        for replica in replicas {
            replica.get(&target, Duration::ZERO).await;
        }
        assert!(replicas.iter().all(|replica| replica.holds(&target)), "all hold it");
        replicas[0].cache.invalidate(Invalidation::Tag(TAG.into()));
        replicas[0].cache.told().await;
        let told = Instant::now();
        let mut last = Duration::ZERO;
        while replicas.iter().any(|replica| replica.holds(&target)) {
            last = told.elapsed();
            tokio::task::yield_now().await;
        }
        milliseconds.push(last.as_secs_f64() * 1e3);
    }
    let (p50, p99) = (percentile(&mut milliseconds, 50), percentile(&mut milliseconds, 99));
    println!("{}", json!({"case": "forgetting", "p50": p50, "p99": p99}));
}

async fn run(url: &str, rounds: usize) {
    let prefix = format!("phase6:bench:{:x}", rand::random::<u64>());
    let fetches = Arc::default();
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        let redis = Redis::new(&url.parse().unwrap(), &prefix).unwrap();
        replicas.push(Replica::start(redis, &fetches).await);
    }
    hit(&replicas[0], 10 * rounds).await;
    stampede(&replicas, rounds / 5).await;
    forgetting(&replicas, rounds).await;
}

fn main() {
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS names a server; cargo xtask bench starts one");
    // `cargo test --benches` only wants to see that it runs.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { 200 } else { 5 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&url, rounds));
}
