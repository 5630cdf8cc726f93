//! A decision about one of 1,000 callers known by name, each with a bucket that replicas share through Redis.
//! All are admitted.
//!
//! `limitador` asks Redis about each request, or counts by itself and adds up once a second, as it does out of
//! the box; replicas that count by themselves admit more than the limit.

use std::{
    collections::HashMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
};

use foldhash::quality::RandomState;
use limitador::{
    AsyncRateLimiter,
    limit::{Context, Limit},
    storage::redis::{AsyncRedisStorage, CachedRedisStorage},
};
use phase6_ratelimit::{Backend, BackendDecision, Limits, SharedBuckets};
use phase6_redis::Redis;

use crate::{Rival, compete};

const CALLERS: usize = 1_000;
/// Tokens, and tokens per second: more than anybody asks for here.
const LIMIT: u32 = 10_000_000;

/// Decisions of a round by whoever does not ask Redis about each.
const MANY: usize = 100_000;
/// And by whoever does.
const FEW: usize = 1_000;

pub fn run(rounds: usize, redis: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started");
    let names: Vec<String> = (0..CALLERS).map(|number| format!("customer-{number:06}")).collect();
    let run = format!("{:x}", rand::random::<u64>());

    let policy = serde_json::json!({"capacity": LIMIT, "refillPerSecond": LIMIT, "scope": "Shared"});
    let limits = Limits::new(&serde_json::from_value(policy).expect("a valid policy"), 1, true);
    let hasher = RandomState::default();
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let shared = {
        let _guard = runtime.enter();
        let redis = Redis::new(&redis.parse().expect("a URL of Redis"), &format!("phase6:bench:{run}"));
        SharedBuckets::new(redis.expect("a Redis that can be used"), CALLERS)
    };
    let ours = || {
        runtime.block_on(async {
            for name in names.iter().cycle().take(MANY) {
                let rule = limits.rule("GET", "/api/v1/budget");
                let bucket = limits.bucket(rule, Some(black_box(name)), address, |_| None, &hasher);
                let decision = match shared.decide(&bucket, &rule.config) {
                    BackendDecision::Ready(decision) => decision,
                    BackendDecision::Pending(pending) => pending.await,
                };
                assert!(black_box(decision).is_admitted(), "{decision:?} {:?}", shared.stats());
            }
        });
        MANY as u64
    };

    let namespace = format!("bench-{run}");
    let limiter = |storage| {
        let limiter = AsyncRateLimiter::new_with_storage(storage);
        let variable = "caller".try_into().expect("a name");
        limiter.add_limit(Limit::new(namespace.as_str(), u64::from(LIMIT), 1, vec![], vec![variable]));
        limiter
    };
    let [each, cached] = runtime.block_on(async {
        let each = AsyncRedisStorage::new(redis).await.expect("Redis answers");
        let cached = CachedRedisStorage::new(redis).await.expect("Redis answers");
        [limiter(Box::new(each)), limiter(Box::new(cached))]
    });
    let limitadors = |limiter: &AsyncRateLimiter, times: usize| {
        let namespace = namespace.as_str().into();
        runtime.block_on(async {
            for name in names.iter().cycle().take(times) {
                let context: Context<'_> =
                    HashMap::from([("caller".to_owned(), black_box(name).clone())]).into();
                let checked = limiter.check_rate_limited_and_update(&namespace, &context, 1).await;
                assert!(!black_box(checked).expect("Redis answers").limited);
            }
        });
        times as u64
    };

    compete(
        "shared decision",
        rounds,
        vec![
            Rival::new("phase6", ours),
            Rival::new("limitador, Redis", || limitadors(&each, FEW)),
            Rival::new("limitador, cached", || limitadors(&cached, MANY / 10)),
        ],
    );
}
