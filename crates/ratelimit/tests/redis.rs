//! Tests of shared buckets on a real Redis.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use phase6_policy::RateLimit;
use phase6_ratelimit::{
    Backend, BackendDecision, Decision, Limit, Limits, Owner, SharedBuckets,
    escrow::{Escrow, Grant, GrantReply, LEASE_DURATION_US, Report},
};
use phase6_redis::{Redis, RedisError, Script, cmd};
use serde_json::{Value, json};

fn url() -> String {
    std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one")
}

fn redis(prefix: &str) -> Redis {
    Redis::new(&url().parse().unwrap(), prefix).unwrap()
}

/// Returns a key prefix that no other test uses.
/// A client of one tenant.
fn owner(subject: &str) -> Owner<'_> {
    Owner { tenant: "default", subject }
}

fn unique_prefix(name: &str) -> String {
    format!("phase6:test:{name}:{:x}", rand::random::<u64>())
}

/// A replica with its own connection and its own leases.
struct Replica {
    buckets: SharedBuckets,
    limits: Limits,
    hasher: RandomState,
}

impl Replica {
    fn new(prefix: &str, policy: Value, replicas: u32) -> Self {
        Self {
            buckets: SharedBuckets::new(redis(prefix), 1_000),
            limits: limits(policy, replicas),
            hasher: RandomState::default(),
        }
    }

    /// Waits until every spent token of a client's bucket is reported and has drained at `rate` per second.
    async fn wait_until_drained(&self, prefix: &str, client: &str, rate: f64) {
        let rule = self.limits.rule("GET", "/");
        let address = "10.0.0.1".parse().unwrap();
        let name = self.limits.bucket(rule, Some(owner(client)), address, |_| None, &self.hasher).name();
        let (redis, script) = (redis(prefix), Script::new(IS_DRAINED));
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut call = script.prepare_invoke();
            call.key(redis.key(&name)).arg(rate);
            match redis.script::<bool>(&call).await {
                Ok(true) => return,
                result => assert!(Instant::now() < deadline, "{result:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn decide(&self, client: &str) -> Decision {
        let rule = self.limits.rule("GET", "/");
        let address = "10.0.0.1".parse().unwrap();
        let decision = {
            let bucket = self.limits.bucket(rule, Some(owner(client)), address, |_| None, &self.hasher);
            self.buckets.decide(&bucket, &rule.config)
        };
        match decision {
            BackendDecision::Ready(decision) => decision,
            BackendDecision::Pending(pending) => pending.await,
        }
    }
}

fn limits(policy: Value, replicas: u32) -> Limits {
    let policy: RateLimit = serde_json::from_value(policy).unwrap();
    Limits::new(&policy, replicas, true)
}

/// Returns true if no token of a bucket is leased and every used one has drained.
const IS_DRAINED: &str = "
local fields = redis.call('HGETALL', KEYS[1])
local level, at = 0, 0
for f = 1, #fields, 2 do
  local name, value = fields[f], fields[f + 1]
  if name == 'level' then level = tonumber(value) end
  if name == 'at' then at = tonumber(value) end
  if name:sub(1, 1) == '=' and value:match('^%S+') ~= '0' then return false end
end
local time = redis.call('TIME')
return (time[1] * 1000000 + time[2] - at) * ARGV[1] >= level * 1000000";

/// Shifts all times in a bucket, which equals a step of the server's clock in the other direction.
const SHIFT_TIMES: &str = "
local fields = redis.call('HGETALL', KEYS[1])
for f = 1, #fields, 2 do
  local name, value = fields[f], fields[f + 1]
  if name == 'at' or name == 'promised' then
    redis.call('HSET', KEYS[1], name, string.format('%d', value + ARGV[1]))
  elseif name:sub(1, 1) == '=' then
    local rest, e, d = value:match('^(.*) (%S+) (%S+)$')
    redis.call('HSET', KEYS[1], name, rest .. string.format(' %d ', e + ARGV[1]) .. d)
  end
end";

/// Compares the script with `escrow.rs`, report by report, also when the clock steps.
#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn the_script_agrees_with_the_model() {
    // On a busy machine a response may exceed the time limit. Its grant is then unknown, so the comparison
    // starts over.
    for _ in 0..5 {
        match compare_script_with_model().await {
            Ok(()) => return,
            Err(error) => println!("started over: {error}"),
        }
    }
    panic!("Redis exceeded the time limit in every attempt");
}

async fn compare_script_with_model() -> Result<(), RedisError> {
    let key = unique_prefix("model");
    let redis = redis(&key);
    let script = Script::new(include_str!("../src/escrow.lua"));
    let mut model = Escrow::default();
    let mut seed = 7_u64;
    let mut below = |end: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % end
    };
    let (shift, mut behind_us) = (Script::new(SHIFT_TIMES), 0_i64);
    let mut limit = Limit::new(20, 5.0);
    for sequence in 1..=2_000 {
        if sequence % 50 == 0 {
            let step_us = (below(20_000_000) as i64 - 10_000_000) * i64::from(sequence % 100 == 0);
            redis.script::<()>(shift.prepare_invoke().key(&key).arg(step_us)).await?;
            behind_us += step_us;
        }
        if below(20) == 0 {
            limit = Limit::new(1 + below(50) as i64, (1 + below(2_000)) as f64 / 4.0);
        }
        // Some reports request no tokens.
        let (spent, wanted) = (below(40), below(28).saturating_sub(8) as u32);
        let report = Report {
            holder: below(5),
            sequence,
            spent,
            acknowledged: spent.saturating_sub(below(5)),
            leased: below(10) as u32,
            needed: (below(4) as u32).min(wanted),
            wanted,
            reserve: below(12).saturating_sub(4) as u32,
            reserve_within_us: below(3) * 30_000,
        };
        let mut call = script.prepare_invoke();
        call.key(&key).arg(LEASE_DURATION_US).arg(limit.capacity()).arg(limit.refill_per_second());
        call.arg(report.holder).arg(report.sequence).arg(report.spent).arg(report.acknowledged);
        call.arg(report.leased);
        call.arg(report.needed).arg(report.wanted).arg(report.reserve).arg(report.reserve_within_us);
        let grants: Vec<GrantReply> = redis.script(&call).await?;
        let (at, level, limit_field): (u64, f64, String) =
            redis.command(cmd("HMGET").arg(&key).arg("at").arg("level").arg("limit")).await?;
        let grant = model.report(&limit, &report, at.saturating_add_signed(-behind_us));
        assert_eq!(grant, Grant::from(grants[0]), "{report:?}");
        assert!((model.used() - level).abs() < 1e-6, "{report:?}: {} and {level}", model.used());
        let overflow: f64 = limit_field.split(' ').nth(2).unwrap().parse().unwrap();
        assert!(
            (model.overflow() - overflow).abs() < 1e-6,
            "{report:?}: {} and {overflow}",
            model.overflow()
        );
    }
    let expires: i64 = redis.command(cmd("PTTL").arg(&key)).await?;
    assert!(expires > 0, "every key expires");
    let _: i64 = redis.command(cmd("DEL").arg(&key)).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_small_bucket_is_exact_across_replicas() {
    let prefix = unique_prefix("small");
    let policy = json!({"capacity": 5, "refillPerSecond": 0.001});
    let replicas: Vec<Replica> = (0..3).map(|_| Replica::new(&prefix, policy.clone(), 3)).collect();
    let mut admitted = 0;
    for i in 0..12 {
        admitted += usize::from(replicas[i % 3].decide("alice").await.is_admitted());
    }
    assert_eq!(admitted, 5);
    let Decision::Refuse { retry_after: Some(wait) } = replicas[0].decide("alice").await else {
        panic!("refused")
    };
    assert!(wait > Duration::from_mins(15), "{wait:?}");
    assert!(replicas[1].decide("bob").await.is_admitted(), "another client has another bucket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_flood_over_many_replicas_gets_the_limit_once_with_few_calls() {
    let prefix = unique_prefix("flood");
    let policy = json!({"capacity": 100, "refillPerSecond": 100});
    let replicas: Vec<Replica> = (0..4).map(|_| Replica::new(&prefix, policy.clone(), 4)).collect();
    let started = Instant::now();
    let (mut admitted, mut requests) = (0_u32, 0_u32);
    while started.elapsed() < Duration::from_secs(3) {
        for replica in &replicas {
            requests += 1;
            admitted += u32::from(replica.decide("alice").await.is_admitted());
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let most = 100.0 + 100.0 * started.elapsed().as_secs_f64();
    assert!(f64::from(admitted) <= most, "{admitted} of {most}");
    assert!(f64::from(admitted) >= 0.9 * most, "{admitted} of {most}");
    let calls: u64 = replicas.iter().map(|replica| replica.buckets.stats().calls).sum();
    assert!(calls * 5 < u64::from(requests), "{calls} calls for {requests} requests");
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn tokens_of_a_quiet_replica_return() {
    let prefix = unique_prefix("quiet");
    let policy = json!({"capacity": 100, "refillPerSecond": 0.001});
    let first = Replica::new(&prefix, policy.clone(), 2);
    // Its demand grows, and so does the number of tokens that it leases.
    for _ in 0..40 {
        assert!(first.decide("alice").await.is_admitted());
    }
    let second = Replica::new(&prefix, policy, 2);
    let started = Instant::now();
    let mut admitted = 0;
    while admitted < 60 {
        if second.decide("alice").await.is_admitted() {
            admitted += 1;
        } else {
            assert!(started.elapsed() < Duration::from_secs(10), "only {admitted} of 60");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // Refused locally: the replica reports again only when a token can be available.
    assert!(!second.decide("alice").await.is_admitted());
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn an_edit_takes_effect_at_once_and_flipping_admits_nothing_extra() {
    let prefix = unique_prefix("edits");
    // A Redis that responds late on a busy machine must not have the local fallback admit anything.
    let policy =
        |capacity: i32| json!({"capacity": capacity, "refillPerSecond": 0.001, "onBackendFailure": "Deny"});
    let mut replica = Replica::new(&prefix, policy(100), 2);
    let started = Instant::now();
    let mut admitted = 0;
    for edit in 0..1_000 {
        let capacity = [100, 20, 60][edit % 3];
        replica.limits = limits(policy(capacity), 2);
        for _ in 0..3 {
            admitted += u32::from(replica.decide("alice").await.is_admitted());
        }
    }
    assert_eq!(admitted, 100, "after {:?}", started.elapsed());
    replica.limits = limits(policy(120), 2);
    assert!(replica.decide("alice").await.is_admitted(), "a raise takes effect at once");
    replica.limits = limits(policy(50), 2);
    assert!(!replica.decide("alice").await.is_admitted(), "and so does a cut");
}

/// Tokens used under a fast limit drain at its rate and do not block a slow limit that follows.
#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn tokens_drain_at_the_rate_under_which_they_were_used() {
    let prefix = unique_prefix("drained");
    let mut replica = Replica::new(&prefix, json!({"capacity": 100_000, "refillPerSecond": 10_000}), 3);
    for _ in 0..200 {
        assert!(replica.decide("alice").await.is_admitted());
    }
    // Tokens count as used from the time at which they are reported.
    replica.wait_until_drained(&prefix, "alice", 10_000.0).await;
    replica.limits = limits(json!({"capacity": 30, "refillPerSecond": 0.01}), 3);
    assert!(replica.decide("alice").await.is_admitted());
}

/// Regression: requests were refused for 20 s, until the usage of the large bucket had drained at the small
/// rate.
#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn after_a_cut_under_a_flood_exactly_the_new_rate_is_admitted_at_once() {
    let (prefix, large) = (unique_prefix("flood-cut"), json!({"capacity": 1_000, "refillPerSecond": 1_000}));
    let mut replicas: Vec<Replica> = (0..3).map(|_| Replica::new(&prefix, large.clone(), 3)).collect();
    let mut refused = 0;
    while refused < 100 {
        for replica in &replicas {
            refused += u32::from(!replica.decide("alice").await.is_admitted());
        }
    }
    for replica in &mut replicas {
        replica.limits = limits(json!({"capacity": 10, "refillPerSecond": 50}), 3);
    }
    let (started, mut admitted) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(3) {
        for replica in &replicas {
            admitted += u32::from(replica.decide("alice").await.is_admitted());
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let most = 10.0 + 50.0 * started.elapsed().as_secs_f64();
    assert!(f64::from(admitted) <= most, "{admitted} of {most}");
    assert!(f64::from(admitted) >= 0.6 * most, "{admitted} of {most}");
}

/// Regression: in CI, 31 requests were admitted under a limit of 30 after a cut. The first report of each
/// replica made the bucket drain at the old rate, including tokens that others had used under the new one.
#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn tokens_used_after_a_cut_do_not_drain_at_the_old_rate() {
    let (prefix, fast) = (unique_prefix("cut"), json!({"capacity": 100_000, "refillPerSecond": 10_000}));
    let mut replicas: Vec<Replica> = (0..3).map(|_| Replica::new(&prefix, fast.clone(), 3)).collect();
    for replica in &replicas {
        assert!(replica.decide("alice").await.is_admitted());
    }
    replicas[0].wait_until_drained(&prefix, "alice", 10_000.0).await;
    for replica in &mut replicas {
        replica.limits = limits(json!({"capacity": 6, "refillPerSecond": 0.001}), 3);
    }
    // Between replicas, enough time passes for one token to refill at the old rate, not at the new one.
    let mut admitted = 0;
    for replica in &replicas {
        for _ in 0..4 {
            admitted += u32::from(replica.decide("alice").await.is_admitted());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(admitted, 6);
}

#[tokio::test]
async fn without_redis_the_policy_decides_and_no_request_waits() {
    let unreachable = Redis::new(&"redis://127.0.0.1:1".parse().unwrap(), "unreachable").unwrap();
    for (on_failure, expected) in [("LocalShare", 3), ("Allow", 30), ("Deny", 0)] {
        let policy = json!({"capacity": 12, "refillPerSecond": 0.001, "onBackendFailure": on_failure});
        let replica = Replica {
            buckets: SharedBuckets::new(unreachable.clone(), 1_000),
            limits: limits(policy, 2),
            hasher: RandomState::default(),
        };
        let started = Instant::now();
        let mut admitted = 0;
        for _ in 0..30 {
            admitted += u32::from(replica.decide("alice").await.is_admitted());
        }
        // `LocalShare` admits half of the share of six, because earlier admissions are unknown.
        assert_eq!(admitted, expected, "{on_failure}");
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
        assert_eq!(replica.buckets.stats().fallback_decisions.total(), 30);
    }
}
