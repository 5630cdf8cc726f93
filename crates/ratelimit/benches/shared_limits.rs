//! Benchmark of ten replicas that share a limit through one Redis.
//!
//! Measures the admitted requests and the calls to Redis under a flood, within the limit, and with most of
//! the requests at one replica. Compares them with an oracle: one bucket that decides on the same requests at
//! the same times.
//!
//! Requires `PHASE6_TEST_REDIS`. Prints one line of JSON per case, which `cargo xtask bench` reads.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a terminal program that panics on failure")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use phase6_ratelimit::{Backend, BackendDecision, Limit, Limits, Owner, SharedBuckets, gcra::Bucket};
use phase6_redis::Redis;
use serde_json::json;
use tokio::{sync::mpsc, time::MissedTickBehavior};

const REPLICAS: usize = 10;
/// Capacity of the bucket in tokens, and its refill rate per second.
const LIMIT: u32 = 1_000;
/// Interval at which a replica sends the requests that are due.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
struct Durations {
    /// Time until the burst is spent and every replica has measured its demand.
    warm_up: Duration,
    measurement: Duration,
}

/// Long enough that the roughly twenty tokens leased at the start and the end of the measurement do not
/// matter.
const FULL: Durations = Durations { warm_up: Duration::from_secs(4), measurement: Duration::from_secs(40) };
const SMOKE_TEST: Durations =
    Durations { warm_up: Duration::from_millis(200), measurement: Duration::from_millis(800) };

struct Case {
    name: &'static str,
    /// Requests per second at each replica.
    demand: [f64; REPLICAS],
}

fn even(total: f64) -> [f64; REPLICAS] {
    [total / REPLICAS as f64; REPLICAS]
}

fn cases() -> [Case; 4] {
    let total = f64::from(LIMIT);
    let mut skewed = even(2.0 * total * 0.1);
    skewed[0] += 2.0 * total * 0.9 - skewed[0];
    [
        Case { name: "within", demand: even(0.8 * total) },
        Case { name: "double", demand: even(2.0 * total) },
        Case { name: "skewed", demand: skewed },
        Case { name: "flood", demand: even(50.0 * total) },
    ]
}

/// Figures of one replica during the measurement.
#[derive(Clone, Copy, Default)]
struct Figures {
    admitted: u64,
    refused: u64,
    /// Requests that the oracle admitted.
    admitted_by_oracle: u64,
    /// Calls to Redis.
    calls: u64,
    /// Total time of the decisions that did not wait.
    busy: Duration,
    decided_at_once: u64,
}

/// The bucket of a single process.
struct Oracle {
    bucket: Mutex<Bucket>,
    limit: Limit,
    started: Instant,
}

impl Oracle {
    fn admits(&self) -> bool {
        let mut bucket = self.bucket.lock().unwrap();
        // Read under the lock, so that time does not step back from one request to the next.
        let now_ns = self.started.elapsed().as_nanos() as u64;
        bucket.decide(&self.limit, 1, now_ns).is_admitted()
    }
}

async fn replica(redis: Redis, rate: f64, durations: Durations, oracle: Arc<Oracle>) -> Figures {
    let policy = json!({"capacity": LIMIT, "refillPerSecond": LIMIT, "scope": "Shared"});
    let limits = Limits::new(&serde_json::from_value(policy).unwrap(), REPLICAS as u32, true);
    let (shared, hasher) = (SharedBuckets::new(redis, 1_000), RandomState::default());
    let (rule, address) = (limits.rule("GET", "/"), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (sender, mut resolved) = mpsc::unbounded_channel();
    let (mut figures, mut calls_before, mut measuring) = (Figures::default(), 0, false);
    let started = oracle.started;
    let mut sent = 0_u64;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let elapsed = started.elapsed();
        if elapsed >= durations.warm_up + durations.measurement {
            break;
        }
        if !measuring && elapsed >= durations.warm_up {
            (figures, measuring, calls_before) = (Figures::default(), true, shared.stats().calls);
        }
        let due = (elapsed.as_secs_f64() * rate) as u64 - sent;
        sent += due;
        let started_at = Instant::now();
        let decisions: Vec<BackendDecision> = (0..due)
            .map(|_| {
                let bucket = limits.bucket(
                    rule,
                    Some(Owner { tenant: "default", subject: "somebody" }),
                    address,
                    |_| None,
                    &hasher,
                );
                shared.decide(&bucket, &rule.config)
            })
            .collect();
        let took = started_at.elapsed();
        if due > 0 && decisions.iter().all(|decision| matches!(decision, BackendDecision::Ready(_))) {
            figures.busy += took;
            figures.decided_at_once += due;
        }
        for decision in decisions {
            figures.admitted_by_oracle += u64::from(oracle.admits());
            match decision {
                BackendDecision::Ready(decision) if decision.is_admitted() => figures.admitted += 1,
                BackendDecision::Ready(_) => figures.refused += 1,
                BackendDecision::Pending(pending) => {
                    let sender = sender.clone();
                    tokio::spawn(async move { sender.send(pending.await.is_admitted()) });
                }
            }
        }
        while let Ok(admitted) = resolved.try_recv() {
            if admitted { figures.admitted += 1 } else { figures.refused += 1 }
        }
    }
    figures.calls = shared.stats().calls - calls_before;
    figures
}

async fn run(case: &Case, durations: Durations, url: &str) {
    let prefix = format!("phase6:bench:{:x}", rand::random::<u64>());
    let limit = Limit::new(i64::from(LIMIT), f64::from(LIMIT));
    let oracle = Arc::new(Oracle { bucket: Mutex::default(), limit, started: Instant::now() });
    let replicas = case.demand.map(|rate| {
        let redis = Redis::new(&url.parse().unwrap(), &prefix).unwrap();
        tokio::spawn(replica(redis, rate, durations, Arc::clone(&oracle)))
    });
    let mut all = Figures::default();
    for replica in replicas {
        let figures = replica.await.unwrap();
        all.admitted += figures.admitted;
        all.refused += figures.refused;
        all.admitted_by_oracle += figures.admitted_by_oracle;
        all.calls += figures.calls;
        all.busy += figures.busy;
        all.decided_at_once += figures.decided_at_once;
    }
    let line = json!({
        "case": case.name,
        "admitted": all.admitted,
        "refused": all.refused,
        "ofLimit": all.admitted as f64 / (f64::from(LIMIT) * durations.measurement.as_secs_f64()),
        "ofOracle": all.admitted as f64 / all.admitted_by_oracle as f64,
        "trips": all.calls as f64 / (all.admitted + all.refused) as f64,
        "nanoseconds": all.busy.as_nanos() as f64 / all.decided_at_once as f64,
    });
    println!("{line}");
}

fn main() {
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS is the URL of a server; `cargo xtask bench` starts one");
    // `cargo test --benches` only checks that the benchmark runs.
    let durations = if std::env::args().any(|argument| argument == "--bench") { FULL } else { SMOKE_TEST };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for case in cases() {
        runtime.block_on(run(&case, durations, &url));
    }
}
