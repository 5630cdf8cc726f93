//! Many replicas draw on one bucket through a network that delays, reorders and loses: what they admit
//! together is never more than one bucket would.

#![allow(
    clippy::unwrap_used,
    clippy::needless_borrows_for_generic_args,
    reason = "a test that cannot go on panics; names are given in turn"
)]

use phase6_ratelimit::{
    Decision, Limit,
    escrow::{Escrow, Grant, Report},
    lease::{Lease, Step},
};
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What the replicas and the network are like.
#[derive(Clone, Debug)]
struct World {
    seed: u64,
    replicas: u32,
    capacity: i64,
    rate: f64,
    /// Requests per second of all replicas together.
    demand: u64,
    /// Longest time of a message, one way.
    delay_ms: u64,
    /// Requests come to a replica for about so many milliseconds, and then for as long they do not; 0: always.
    burst_ms: u64,
    /// Of a hundred messages, so many are lost, or come when nobody waits for them any more.
    lost: u64,
    /// Of a thousand milliseconds, a replica is gone and another one comes at so many.
    crashes: u64,
    /// Of a thousand milliseconds, the limit is edited at so many.
    edits: u64,
    seconds: u64,
}

/// Nobody's life: the answer to what came late is heard by nobody.
const NOBODY: u64 = u64::MAX;

enum Message {
    Report(usize, u64, Report, Limit),
    Answer(usize, u64, Grant),
    Lost(usize, u64),
}

struct Outcome {
    admitted: u64,
    refused: u64,
    calls: u64,
    /// Most that a bucket of the largest limit would have held of what was admitted.
    highest: f64,
}

/// Puts a report on its way, if it is not lost. Whoever sent a lost one waits 25 ms for an answer; it may
/// still arrive, when nobody waits any more.
fn send(
    network: &mut Vec<(u64, Message)>,
    numbers: &mut Numbers,
    world: &World,
    now: u64,
    (replica, life, report, limit): (usize, u64, Report, Limit),
) {
    if numbers.below(100) >= world.lost {
        let due = now + (1 + numbers.below(world.delay_ms)) * MS;
        network.push((due, Message::Report(replica, life, report, limit)));
        return;
    }
    network.push((now + 25 * MS, Message::Lost(replica, life)));
    if numbers.below(2) == 0 {
        let late = now + (25 + numbers.below(300)) * MS;
        network.push((late, Message::Report(replica, NOBODY, report, limit)));
    }
}

fn simulate(world: &World) -> Outcome {
    let mut numbers = Numbers(world.seed);
    let mut limit = Limit::new(world.capacity, world.rate);
    let mut most = limit.capacity();
    // An edit acts on the time since the last report too, so the largest rate counts for all of it.
    let fastest = if world.edits > 0 { 1.5 * world.rate } else { world.rate };
    let mut names = 0_u64;
    let mut name = move || {
        names += 1;
        names
    };
    let mut shared = Escrow::default();
    // With a number that tells one life of a replica from the next.
    let mut replicas: Vec<(u64, Lease)> =
        (0..world.replicas).map(|_| (0, Lease::new(limit, name()))).collect();
    let mut network: Vec<(u64, Message)> = Vec::new();
    let mut outcome = Outcome { admitted: 0, refused: 0, calls: 0, highest: 0.0 };
    let (mut level, mut at) = (0.0_f64, 0_u64);
    let mut admitted = |now: u64, fastest: f64, highest: &mut f64| {
        level = (level - fastest * (now - at) as f64 / 1e9).max(0.0) + 1.0;
        at = now;
        *highest = highest.max(level);
    };
    let start = 1_000 * MS;
    for tick in 0..world.seconds * 1_000 {
        let now = start + tick * MS;
        if numbers.below(1_000) < world.edits {
            let capacity = 1 + numbers.below(2 * world.capacity as u64) as i64;
            limit = Limit::new(capacity, world.rate * (1 + numbers.below(3)) as f64 / 2.0);
            most = most.max(limit.capacity());
        }
        if numbers.below(1_000) < world.crashes {
            let victim = numbers.below(u64::from(world.replicas)) as usize;
            replicas[victim] = (replicas[victim].0 + 1, Lease::new(limit, name()));
        }
        // What arrives by now.
        let (arrived, rest): (Vec<_>, Vec<_>) = network.into_iter().partition(|(due, _)| *due <= now);
        network = rest;
        for (_, message) in arrived {
            match message {
                Message::Report(replica, life, report, limit) => {
                    let grant = shared.report(&limit, &report, now / 1_000);
                    outcome.calls += 1;
                    // A request that waits is decided about here, whenever it hears of it.
                    for _ in 0..grant.served(report.needed) {
                        admitted(now, fastest, &mut outcome.highest);
                    }
                    let due = now + (1 + numbers.below(world.delay_ms)) * MS;
                    let lost = numbers.below(100) < world.lost;
                    let answer = if lost {
                        Message::Lost(replica, life)
                    } else {
                        Message::Answer(replica, life, grant)
                    };
                    network.push((due + if lost { 25 * MS } else { 0 }, answer));
                }
                Message::Answer(replica, life, grant) if replicas[replica].0 == life => {
                    let (served, _) = replicas[replica].1.granted(&grant, now);
                    outcome.admitted += u64::from(served);
                }
                Message::Lost(replica, life) if replicas[replica].0 == life => replicas[replica].1.failed(),
                Message::Answer(..) | Message::Lost(..) => {}
            }
        }
        // What comes in this millisecond: requests, to replicas at random.
        let requests = (0..10).filter(|_| numbers.below(10_000) < world.demand).count();
        for _ in 0..requests.max((world.demand / 1_000) as usize) {
            let chosen = numbers.below(u64::from(world.replicas)) as usize;
            if world.burst_ms > 0 && !(tick / world.burst_ms + chosen as u64).is_multiple_of(3) {
                continue;
            }
            let (life, lease) = &mut replicas[chosen];
            match lease.decide(&limit, now, &mut name) {
                Step::Decided(Decision::Admit { .. }) => {
                    outcome.admitted += 1;
                    admitted(now, fastest, &mut outcome.highest);
                }
                Step::Decided(Decision::Refuse { .. }) => outcome.refused += 1,
                // One waits for the answer; others that come meanwhile come again later.
                Step::Ask => {
                    if let Some(report) = lease.report(1, world.replicas, now) {
                        send(&mut network, &mut numbers, world, now, (chosen, *life, report, limit));
                    }
                }
            }
        }
        for (chosen, (life, lease)) in replicas.iter_mut().enumerate() {
            if lease.wants_to_report(now)
                && let Some(report) = lease.report(0, world.replicas, now)
            {
                send(&mut network, &mut numbers, world, now, (chosen, *life, report, limit));
            }
        }
        assert!(
            outcome.highest <= most + 1e-3,
            "{} in a bucket of {most} after {tick} ms: {world:?}",
            outcome.highest
        );
    }
    outcome
}

fn worlds() -> impl Strategy<Value = World> {
    (
        (any::<u64>(), 1..12_u32, 1..400_i64, 1..500_u32),
        (10..20_000_u64, 1..30_u64, 0..1_500_u64, 0..40_u64, 0..20_u64, 0..20_u64),
    )
        .prop_map(
            |((seed, replicas, capacity, rate), (demand, delay_ms, burst_ms, lost, crashes, edits))| World {
                seed,
                replicas,
                capacity,
                rate: f64::from(rate),
                demand,
                delay_ms,
                burst_ms,
                lost,
                // Every other world is one without them: they hide what would go wrong by itself.
                crashes: if seed % 2 == 0 { crashes } else { 0 },
                edits: if seed % 3 == 0 { edits } else { 0 },
                seconds: 6,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn all_replicas_together_admit_no_more_than_one_bucket_would(world in worlds()) {
        simulate(&world);
    }
}

fn calm(replicas: u32, capacity: i64, rate: f64, demand: u64) -> World {
    let (delay_ms, burst_ms, lost, crashes, edits, seconds) = (1, 0, 0, 0, 0, 20);
    World { seed: 6, replicas, capacity, rate, demand, delay_ms, burst_ms, lost, crashes, edits, seconds }
}

#[test]
fn a_flood_is_refused_almost_without_calls_and_gets_the_whole_limit() {
    let outcome = simulate(&calm(10, 1_000, 1_000.0, 50_000));
    let share = outcome.admitted as f64 / (1_000.0 + 1_000.0 * 20.0);
    let calls = outcome.calls as f64 / (outcome.admitted + outcome.refused) as f64;
    println!("admitted {share:.3} of the limit, {calls:.4} calls for a request");
    assert!(share > 0.97, "{share}");
    assert!(calls < 0.02, "{calls}");
}

#[test]
fn within_the_limit_nobody_is_refused() {
    let outcome = simulate(&calm(10, 1_000, 1_000.0, 800));
    let calls = outcome.calls as f64 / outcome.admitted as f64;
    println!("{calls:.3} calls for a request");
    assert_eq!(outcome.refused, 0);
}
