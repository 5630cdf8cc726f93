//! Ten replicas of a cache over one Redis: the cost of a hit in front of a second level, the time that
//! concurrent clients wait for a missing response, and the time for which an invalidated response is still
//! served.
//!
//! Needs `PHASE6_TEST_REDIS`. Prints one line of JSON per case, which `cargo xtask bench` reads.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a command-line program, which panics on failure"
)]

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
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer, Invalidation, Level, Remote};
use phase6_redis::Redis;
use serde_json::json;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};

const REPLICAS: usize = 10;
/// Clients of each replica that request the same response at once.
const CLIENTS: usize = 100;
/// Duration of a fetch.
const FETCH_TIME: Duration = Duration::from_millis(100);
const TAG: &str = "cohort";

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

struct Replica {
    cache: Cache,
    fetches: Arc<AtomicU64>,
}

impl Replica {
    async fn start(redis: Redis, fetches: &Arc<AtomicU64>) -> Self {
        let level = Arc::new(Remote::new(redis));
        let cache = Cache::new(Some(Arc::clone(&level) as Arc<dyn Level>));
        while !level.is_in_sync() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { cache, fetches: Arc::clone(fetches) }
    }

    /// Sends a request. The origin answers it after `delay`.
    fn get(&self, target: &Uri, delay: Duration) -> impl Future<Output = ()> + Send + 'static {
        let fetches = Arc::clone(&self.fetches);
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            let fetches = Arc::clone(&fetches);
            async move {
                fetches.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(delay).await;
                let mut response = Response::new(Full::new(Bytes::from_static(&[b'x'; 250])));
                let headers = response.headers_mut();
                headers.insert(HeaderName::from_static("surrogate-key"), HeaderValue::from_static(TAG));
                Ok::<_, Infallible>(response)
            }
        });
        let mut request = Request::new(Full::default());
        *request.uri_mut() = target.clone();
        let response =
            HttpCacheLayer::new(self.cache.clone(), "bench", ACCESSORS).layer(handler).oneshot(request);
        async move {
            let Ok(_) = response.await;
        }
    }

    fn holds(&self, target: &Uri) -> bool {
        self.cache.get_fresh("", target, &HeaderMap::new(), &POLICY).is_some()
    }
}

fn target(number: usize) -> Uri {
    format!("/api/v1/budget/metrics/cohort-{number:05}").parse().unwrap()
}

/// Returns the smallest value that `percent` of the values do not exceed.
fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

/// Measures a hit in memory of a replica that reads the invalidation log, for responses with tags.
async fn hit(replica: &Replica, rounds: usize) {
    let targets: Vec<Uri> = (0..1_000).map(target).collect();
    for target in &targets {
        replica.get(target, Duration::ZERO).await;
    }
    let headers = HeaderMap::new();
    let mut nanoseconds: Vec<f64> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            for target in &targets {
                black_box(replica.cache.get_fresh("", black_box(target), &headers, &POLICY));
            }
            started.elapsed().as_nanos() as f64 / targets.len() as f64
        })
        .collect();
    assert!(targets.iter().all(|target| replica.holds(target)));
    println!("{}", json!({"case": "hit", "nanoseconds": percentile(&mut nanoseconds, 50)}));
}

/// Measures how long all clients of all replicas wait for a response that none of them has.
async fn stampede(replicas: &[Replica], rounds: usize) {
    let fetches = || replicas[0].fetches.load(Ordering::Relaxed);
    let (mut waits, mut max_fetches) = (Vec::new(), 0);
    for round in 0..rounds {
        let (target, before) = (target(10_000 + round), fetches());
        let mut clients = JoinSet::new();
        for replica in replicas {
            for _ in 0..CLIENTS {
                let request = replica.get(&target, FETCH_TIME);
                clients.spawn(async move {
                    let started = Instant::now();
                    request.await;
                    started.elapsed().as_secs_f64()
                });
            }
        }
        waits.extend(clients.join_all().await);
        max_fetches = max_fetches.max(fetches() - before);
    }
    let p99 = percentile(&mut waits, 99) / FETCH_TIME.as_secs_f64();
    let p50 = percentile(&mut waits, 50) / FETCH_TIME.as_secs_f64();
    println!("{}", json!({"case": "stampede", "fetches": max_fetches, "p50": p50, "p99": p99}));
}

/// Measures how long other replicas serve a response after its invalidation was published.
async fn invalidation(replicas: &[Replica], rounds: usize) {
    let mut milliseconds = Vec::new();
    for round in 0..rounds {
        let target = target(20_000 + round);
        for replica in replicas {
            replica.get(&target, Duration::ZERO).await;
        }
        assert!(replicas.iter().all(|replica| replica.holds(&target)), "every replica has the response");
        replicas[0].cache.invalidate(Invalidation::Tag(TAG.into()));
        replicas[0].cache.wait_until_published().await;
        let published = Instant::now();
        let mut last = Duration::ZERO;
        while replicas.iter().any(|replica| replica.holds(&target)) {
            last = published.elapsed();
            tokio::task::yield_now().await;
        }
        milliseconds.push(last.as_secs_f64() * 1e3);
    }
    let (p50, p99) = (percentile(&mut milliseconds, 50), percentile(&mut milliseconds, 99));
    println!("{}", json!({"case": "invalidation", "p50": p50, "p99": p99}));
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
    invalidation(&replicas, rounds).await;
}

fn main() {
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS names a server; cargo xtask bench starts one");
    // `cargo test --benches` only checks that the benchmark runs.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { 200 } else { 5 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&url, rounds));
}
