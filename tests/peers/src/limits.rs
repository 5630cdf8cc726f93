//! A decision about one of 100,000 callers known by name, in random order, each with a separate bucket.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
};

use foldhash::quality::RandomState;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use limitador::limit::{Context, Limit};
use phase6_ratelimit::{Backend, Limits, LocalBuckets, Owner};

use crate::{Contender, compare};

const CALLERS: usize = 100_000;
/// Tokens, and tokens per second: every request is admitted.
const LIMIT: u32 = 1_000;

/// Returns the names of the callers in random order.
fn callers() -> Vec<String> {
    let order = BuildHasherDefault::<DefaultHasher>::default();
    let mut numbers: Vec<usize> = (0..CALLERS).collect();
    numbers.sort_by_cached_key(|number| order.hash_one(number));
    numbers.iter().map(|number| format!("customer-{number:06}")).collect()
}

pub fn run(rounds: usize) {
    let names = callers();

    let policy = serde_json::json!({"capacity": LIMIT, "refillPerSecond": LIMIT});
    let limits = Limits::new(&serde_json::from_value(policy).expect("a valid policy"), 1, false);
    let (buckets, hasher) = (LocalBuckets::with_capacity(CALLERS), RandomState::default());
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let phase6_round = || {
        for name in &names {
            let rule = limits.rule("GET", "/api/v1/budget");
            let bucket = limits.bucket(
                rule,
                Some(Owner { tenant: "default", subject: black_box(name) }),
                address,
                |_| None,
                &hasher,
            );
            black_box(buckets.decide(&bucket, &rule.config));
        }
        CALLERS as u64
    };

    let quota = Quota::per_second(NonZeroU32::new(LIMIT).expect("not zero"));
    let governor: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(quota);
    let governor_round = || {
        for name in &names {
            let _ = black_box(governor.check_key(black_box(name)));
        }
        CALLERS as u64
    };

    let limitador = limitador::RateLimiter::new(CALLERS as u64);
    let variable = "caller".try_into().expect("a name");
    limitador.add_limit(Limit::new("bench", u64::from(LIMIT), 1, vec![], vec![variable]));
    let namespace = "bench".into();
    let limitador_round = || {
        // A tenth of the callers: each decision takes long.
        for name in &names[..CALLERS / 10] {
            let context: Context<'_> = HashMap::from([("caller".to_owned(), black_box(name).clone())]).into();
            let _ = black_box(limitador.check_rate_limited_and_update(&namespace, &context, 1));
        }
        CALLERS as u64 / 10
    };

    compare(
        "decision",
        rounds,
        vec![
            Contender::new("phase6", phase6_round),
            Contender::new("governor", governor_round),
            Contender::new("limitador", limitador_round),
        ],
    );
}
