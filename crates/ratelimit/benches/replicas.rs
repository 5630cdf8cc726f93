//! What ten replicas admit together through one Redis, and how often they call it: under floods, within the
//! limit, and where one of them gets most of the requests. Beside them an oracle: one bucket that decides
//! about the same requests at the same moments.
//!
//! Needs `PHASE6_TEST_REDIS`. Prints one line of JSON for each case: what `cargo xtask bench` reads.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for a terminal, which cannot go on")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use phase6_ratelimit::{Backend, Limit, Limits, Shared, Verdict, gcra::Bucket};
use phase6_redis::Redis;
use serde_json::json;
use tokio::{sync::mpsc, time::MissedTickBehavior};

const REPLICAS: usize = 10;
/// Requests per second, and the burst.
const LIMIT: u32 = 1_000;
/// How often a replica makes the requests that are due.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
struct Times {
    /// Until the burst is spent and every replica knows its demand.
    warm_up: Duration,
    measured: Duration,
}

/// What replicas happen to hold at the begin and the end is some twenty tokens: little of what so many seconds
/// give.
const TO_MEASURE: Times = Times { warm_up: Duration::from_secs(4), measured: Duration::from_secs(40) };
const SMOKE: Times = Times { warm_up: Duration::from_millis(200), measured: Duration::from_millis(800) };

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

/// What became of the requests of one replica while it was measured.
#[derive(Clone, Copy, Default)]
struct Seen {
    admitted: u64,
    refused: u64,
    /// Of them the oracle admitted so many.
    oracle: u64,
    /// Calls to Redis.
    calls: u64,
    /// Time of decisions that did not have to wait.
    busy: Duration,
    decided_at_once: u64,
}

/// The bucket that one process would have.
struct Oracle {
    bucket: Mutex<Bucket>,
    limit: Limit,
    started: Instant,
}

impl Oracle {
    fn admits(&self) -> bool {
        let mut bucket = self.bucket.lock().unwrap();
        // Under the lock: the requests come one after another.
        let now_ns = self.started.elapsed().as_nanos() as u64;
        bucket.decide(&self.limit, 1, now_ns).is_admitted()
    }
}

async fn replica(redis: Redis, rate: f64, times: Times, oracle: Arc<Oracle>) -> Seen {
    let policy = json!({"capacity": LIMIT, "refillPerSecond": LIMIT, "scope": "Shared"});
    let limits = Limits::new(&serde_json::from_value(policy).unwrap(), REPLICAS as u32, true);
    let (shared, hasher) = (Shared::new(redis, 1_000), RandomState::default());
    let (rule, address) = (limits.rule("GET", "/"), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (told, mut later) = mpsc::unbounded_channel();
    let (mut seen, mut calls_before, mut measuring) = (Seen::default(), 0, false);
    let started = oracle.started;
    let mut made = 0_u64;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let elapsed = started.elapsed();
        if elapsed >= times.warm_up + times.measured {
            break;
        }
        if !measuring && elapsed >= times.warm_up {
            (seen, measuring, calls_before) = (Seen::default(), true, shared.stats().calls);
        }
        let due = (elapsed.as_secs_f64() * rate) as u64 - made;
        made += due;
        let begun = Instant::now();
        let verdicts: Vec<Verdict> = (0..due)
            .map(|_| {
                let bucket = limits.bucket(rule, Some("somebody"), address, |_| None, &hasher);
                shared.decide(&bucket, &rule.terms)
            })
            .collect();
        let took = begun.elapsed();
        if due > 0 && verdicts.iter().all(|verdict| matches!(verdict, Verdict::Now(_))) {
            seen.busy += took;
            seen.decided_at_once += due;
        }
        for verdict in verdicts {
            seen.oracle += u64::from(oracle.admits());
            match verdict {
                Verdict::Now(decision) if decision.is_admitted() => seen.admitted += 1,
                Verdict::Now(_) => seen.refused += 1,
                Verdict::Later(deciding) => {
                    let told = told.clone();
                    tokio::spawn(async move { told.send(deciding.await.is_admitted()) });
                }
            }
        }
        while let Ok(admitted) = later.try_recv() {
            if admitted { seen.admitted += 1 } else { seen.refused += 1 }
        }
    }
    seen.calls = shared.stats().calls - calls_before;
    seen
}

async fn run(case: &Case, times: Times, url: &str) {
    let prefix = format!("phase6:bench:{:x}", rand::random::<u64>());
    let limit = Limit::new(i64::from(LIMIT), f64::from(LIMIT));
    let oracle = Arc::new(Oracle { bucket: Mutex::default(), limit, started: Instant::now() });
    let replicas = case.demand.map(|rate| {
        let redis = Redis::new(&url.parse().unwrap(), &prefix).unwrap();
        tokio::spawn(replica(redis, rate, times, Arc::clone(&oracle)))
    });
    let mut all = Seen::default();
    for replica in replicas {
        let seen = replica.await.unwrap();
        all.admitted += seen.admitted;
        all.refused += seen.refused;
        all.oracle += seen.oracle;
        all.calls += seen.calls;
        all.busy += seen.busy;
        all.decided_at_once += seen.decided_at_once;
    }
    let line = json!({
        "case": case.name,
        "admitted": all.admitted,
        "refused": all.refused,
        "ofLimit": all.admitted as f64 / (f64::from(LIMIT) * times.measured.as_secs_f64()),
        "ofOracle": all.admitted as f64 / all.oracle as f64,
        "trips": all.calls as f64 / (all.admitted + all.refused) as f64,
        "nanoseconds": all.busy.as_nanos() as f64 / all.decided_at_once as f64,
    });
    println!("{line}");
}

fn main() {
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS names a server; cargo xtask bench starts one");
    // `cargo test --benches` only wants to see that it runs.
    let times = if std::env::args().any(|argument| argument == "--bench") { TO_MEASURE } else { SMOKE };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for case in cases() {
        runtime.block_on(run(&case, times, &url));
    }
}
