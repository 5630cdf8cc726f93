//! A decision about one of 1,000 callers known by name, each with a bucket that replicas share through Redis.
//! Every request is admitted.
//!
//! `limitador` calls Redis for each request, or counts locally and adds the counts up once a second, which is its
//! default; replicas that count locally admit more than the limit.

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
use phase6_ratelimit::{Backend, BackendDecision, Limits, Owner, SharedBuckets};
use phase6_redis::Redis;

use crate::{Contender, compare};

const CALLERS: usize = 1_000;
/// Tokens, and tokens per second: every request is admitted.
const LIMIT: u32 = 10_000_000;

/// Decisions of a round of a limiter that decides locally.
const LOCAL_DECISIONS: usize = 100_000;
/// Decisions of a round of a limiter that calls Redis for each.
const REMOTE_DECISIONS: usize = 1_000;

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
    let phase6_round = || {
        runtime.block_on(async {
            for name in names.iter().cycle().take(LOCAL_DECISIONS) {
                let rule = limits.rule("GET", "/api/v1/budget");
                let bucket = limits.bucket(
                    rule,
                    Some(Owner { tenant: "default", subject: black_box(name) }),
                    address,
                    |_| None,
                    &hasher,
                );
                let decision = match shared.decide(&bucket, &rule.config) {
                    BackendDecision::Ready(decision) => decision,
                    BackendDecision::Pending(pending) => pending.await,
                };
                assert!(black_box(decision).is_admitted(), "{decision:?} {:?}", shared.stats());
            }
        });
        LOCAL_DECISIONS as u64
    };

    let namespace = format!("bench-{run}");
    let limiter = |storage| {
        let limiter = AsyncRateLimiter::new_with_storage(storage);
        let variable = "caller".try_into().expect("a name");
        limiter.add_limit(Limit::new(namespace.as_str(), u64::from(LIMIT), 1, vec![], vec![variable]));
        limiter
    };
    let [each, cached] = runtime.block_on(async {
        let each = AsyncRedisStorage::new(redis).await.expect("Redis responds");
        let cached = CachedRedisStorage::new(redis).await.expect("Redis responds");
        [limiter(Box::new(each)), limiter(Box::new(cached))]
    });
    let limitador_round = |limiter: &AsyncRateLimiter, times: usize| {
        let namespace = namespace.as_str().into();
        runtime.block_on(async {
            for name in names.iter().cycle().take(times) {
                let context: Context<'_> =
                    HashMap::from([("caller".to_owned(), black_box(name).clone())]).into();
                let checked = limiter.check_rate_limited_and_update(&namespace, &context, 1).await;
                assert!(!black_box(checked).expect("Redis responds").limited);
            }
        });
        times as u64
    };

    compare(
        "shared decision",
        rounds,
        vec![
            Contender::new("phase6", phase6_round),
            Contender::new("limitador, Redis", || limitador_round(&each, REMOTE_DECISIONS)),
            Contender::new("limitador, cached", || limitador_round(&cached, LOCAL_DECISIONS / 10)),
        ],
    );
}
