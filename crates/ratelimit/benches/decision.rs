//! What one decision costs when 100,000 callers, known by name, ask in no order: finding the rule,
//! hashing the name, and deciding; beside `governor`'s keyed limiter on the same names.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foldhash::quality::RandomState;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use phase6_ratelimit::{Backend, Limits, Memory};

const CALLERS: usize = 100_000;

/// The callers' names, each once, in an order that has nothing to do with theirs. They lie in
/// memory as they are asked for: a name comes with its request and is at hand.
fn callers() -> Vec<String> {
    let order = BuildHasherDefault::<DefaultHasher>::default();
    let mut numbers: Vec<usize> = (0..CALLERS).collect();
    numbers.sort_by_cached_key(|number| order.hash_one(number));
    numbers.iter().map(|number| format!("customer-{number:06}")).collect()
}

fn decision(c: &mut Criterion) {
    let names = callers();
    let mut group = c.benchmark_group("decision_100k_names");
    group.throughput(Throughput::Elements(1));

    let policy = serde_json::from_value(serde_json::json!({"capacity": 1000, "refillPerSecond": 1000}));
    let limits = Limits::new(&policy.expect("a valid policy"), 1, false);
    let memory = Memory::with_room_for(CALLERS);
    let hasher = RandomState::default();
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut asking = names.iter().cycle();
    group.bench_function("phase6", |b| {
        b.iter(|| {
            let caller = asking.next().expect("a cycle has no end");
            let rule = limits.rule("GET", "/api/v1/budget");
            let key = limits.bucket(rule, Some(black_box(caller)), address, |_| None, &hasher);
            memory.decide(&key, &rule.terms)
        });
    });

    let quota = Quota::per_second(NonZeroU32::new(1000).expect("not zero"));
    let governor: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(quota);
    for name in &names {
        let _ = governor.check_key(name);
    }
    let mut asking = names.iter().cycle();
    group.bench_function("governor", |b| {
        b.iter(|| governor.check_key(black_box(asking.next().expect("a cycle has no end"))));
    });
    group.finish();
}

criterion_group!(benches, decision);
criterion_main!(benches);
