//! Simulations of many replicas that draw on one bucket through a network that delays, reorders and loses
//! messages.
//!
//! All replicas together never admit more than one bucket would. Around an outage of the shared state they
//! never admit more than one and a half times the limit.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod simulation;

use phase6_ratelimit::{
    Limit,
    escrow::Grant,
    lease::{Lease, LeaseDecision},
};
use proptest::prelude::*;
use simulation::{Outage, ReplicaLimiter, Scenario, simulate};

fn scenarios() -> impl Strategy<Value = Scenario> {
    (
        (any::<u64>(), 1..12_u32, 1..400_i64, prop_oneof![1..500_u32, 1..20_u32]),
        (10..20_000_u64, 1..30_u64, 0..1_500_u64, 0..40_u64, 0..20_u64, 0..20_u64),
    )
        .prop_map(
            |(
                (seed, replicas, capacity, rate),
                (demand, delay_ms, burst_ms, lost_percent, crashes, edits),
            )| Scenario {
                seed,
                replicas,
                capacity,
                rate: f64::from(rate),
                demand,
                delay_ms,
                burst_ms,
                lost_percent,
                // Only some scenarios have these faults, because they hide errors that occur without them.
                crashes_per_second: if seed % 2 == 0 { crashes } else { 0 },
                edits_per_second: if seed % 3 == 0 { edits } else { 0 },
                edit_delay_ms: if seed % 4 == 0 { 300 } else { 0 },
                clock_steps_per_ten_seconds: if seed % 5 == 0 { 20 } else { 0 },
                outage: None,
                seconds: 6,
            },
        )
}

/// An event in the life of a lease.
#[derive(Clone, Debug)]
enum Event {
    /// A number of requests arrive.
    Requests(u32),
    /// A report is sent and its grant arrives.
    Report { tokens: u32, due_in_us: u64, recheck_in_us: u64 },
    /// A report is sent and lost.
    LostReport,
    /// A number of milliseconds pass.
    Pause(u64),
    /// The capacity is edited.
    Edit(i64),
}

/// Events, each with the nanoseconds that pass before it.
fn events() -> impl Strategy<Value = Vec<(Event, u64)>> {
    let event = prop_oneof![
        4 => (1..40_u32).prop_map(Event::Requests),
        3 => (0..60_u32, prop_oneof![Just(0_u64), 1..40_000_u64], 0..40_000_u64)
            .prop_map(|(tokens, due_in_us, recheck_in_us)| Event::Report { tokens, due_in_us, recheck_in_us }),
        1 => Just(Event::LostReport),
        2 => (0..6_000_u64).prop_map(Event::Pause),
        1 => (100..200_i64).prop_map(Event::Edit),
    ];
    proptest::collection::vec((event, 0..5_000_000_u64), 1..60)
}

proptest! {
    /// Compares a lease that publishes credit with one that does not, request by request, through reports,
    /// edits and expiry.
    #[test]
    fn with_published_credit_a_lease_decides_and_reports_as_without(events in events()) {
        let mut limit = Limit::new(150, 100.0);
        let mut limiter = ReplicaLimiter::new(Lease::new(limit, 1));
        let mut lease = Lease::new(limit, 1);
        let mut now = 1_000_000_000;
        for (event, nanoseconds) in events {
            now += nanoseconds;
            match event {
                Event::Requests(count) => for _ in 0..count {
                    let decide = |lease: &mut Lease| match lease.decide(&limit, now, || 2) {
                        LeaseDecision::Decided(decision) => Some(decision.is_admitted()),
                        LeaseDecision::Unknown => None,
                    };
                    let with_credit = limiter.decide(&limit, now).or_else(|| limiter.with_lease(now, decide));
                    prop_assert_eq!(with_credit, decide(&mut lease));
                },
                Event::Report { tokens, due_in_us, recheck_in_us } => {
                    let with_credit = limiter.with_lease(now, |lease| lease.report(1, 1, now));
                    let without = lease.report(1, 1, now);
                    prop_assert_eq!(with_credit.is_some(), without.is_some());
                    if let (Some(report), Some(expected)) = (with_credit, without) {
                        // The requested tokens depend on the demand, which credit measures less exactly.
                        let tokens = tokens.min(report.wanted).min(expected.wanted);
                        prop_assert_eq!(
                            (report.holder, report.spent, report.acknowledged, report.leased),
                            (expected.holder, expected.spent, expected.acknowledged, expected.leased)
                        );
                        let grant = Grant { tokens, due_in_us, recheck_in_us, ..Grant::default() };
                        let served = limiter.with_lease(now, |lease| lease.apply_grant(&grant, now).requests);
                        prop_assert_eq!(served, lease.apply_grant(&grant, now).requests);
                    }
                }
                Event::LostReport => {
                    let report = |lease: &mut Lease| {
                        let report = lease.report_spent(now);
                        lease.report_failed();
                        report.map(|report| (report.spent, report.acknowledged, report.leased))
                    };
                    prop_assert_eq!(limiter.with_lease(now, report), report(&mut lease));
                }
                Event::Pause(ms) => now += ms * 1_000_000,
                Event::Edit(capacity) => limit = Limit::new(capacity, 100.0),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn all_replicas_together_admit_no_more_than_one_bucket(scenario in scenarios()) {
        simulate(&scenario);
    }

    #[test]
    fn through_an_outage_replicas_admit_at_most_one_and_a_half_times_the_limit(
        scenario in scenarios(), outage in outages(),
    ) {
        // A limit below the number of replicas cannot be divided among them, and a replica that starts during
        // an outage gets a full share.
        let capacity = scenario.capacity.max(i64::from(2 * scenario.replicas));
        let lost_percent = if scenario.seed % 2 == 0 { 0 } else { scenario.lost_percent };
        simulate(&Scenario {
            capacity,
            lost_percent,
            crashes_per_second: 0,
            clock_steps_per_ten_seconds: 0,
            outage: Some(outage),
            ..scenario
        });
    }
}

fn outages() -> impl Strategy<Value = Outage> {
    let percent = prop_oneof![Just(100_u64), 10..100_u64];
    let repeat_after_ms = prop_oneof![Just(0_u64), 200..3_000_u64];
    (0..2_000_u64, 1..3_000_u64, repeat_after_ms, 1..600_u64, percent, any::<bool>(), any::<bool>()).prop_map(
        |(start_ms, duration_ms, repeat_after_ms, detection_ms, percent, loses_state, without_requests)| {
            Outage {
                start_ms,
                duration_ms,
                repeat_after_ms,
                detection_ms,
                percent,
                loses_state,
                without_requests,
            }
        },
    )
}

const OUTAGE: Outage = Outage {
    start_ms: 500,
    duration_ms: 100,
    repeat_after_ms: 0,
    detection_ms: 0,
    percent: 100,
    loses_state: false,
    without_requests: false,
};

/// A scenario without faults.
fn without_faults(replicas: u32, capacity: i64, rate: f64, demand: u64) -> Scenario {
    Scenario {
        seed: 6,
        replicas,
        capacity,
        rate,
        demand,
        delay_ms: 1,
        burst_ms: 0,
        lost_percent: 0,
        crashes_per_second: 0,
        edits_per_second: 0,
        edit_delay_ms: 0,
        clock_steps_per_ten_seconds: 0,
        outage: None,
        seconds: 20,
    }
}

#[test]
fn a_flood_gets_the_whole_limit_and_is_refused_almost_without_calls() {
    let outcome = simulate(&without_faults(10, 1_000, 1_000.0, 50_000));
    let share = outcome.admitted as f64 / (1_000.0 + 1_000.0 * 20.0);
    let calls = outcome.calls as f64 / (outcome.admitted + outcome.refused) as f64;
    println!("admitted {share:.3} of the limit, {calls:.4} calls per request");
    assert!(share > 0.97, "{share}");
    assert!(calls < 0.02, "{calls}");
}

#[test]
fn within_the_limit_no_request_is_refused() {
    let outcome = simulate(&without_faults(10, 1_000, 1_000.0, 800));
    let calls = outcome.calls as f64 / outcome.admitted as f64;
    println!("{calls:.3} calls per request");
    assert_eq!(outcome.refused, 0);
}

#[test]
fn the_first_replica_to_return_does_not_spend_tokens_that_others_have_spent() {
    // All shares are full when the shared state returns, and only one replica detects that at once.
    let outage = Outage { duration_ms: 3_000, detection_ms: 500, without_requests: true, ..OUTAGE };
    simulate(&Scenario { outage: Some(outage), seconds: 6, ..without_faults(8, 400, 200.0, 20_000) });
}

/// Regression: on the cluster a limit of 30 was admitted twice, because each short outage started with half a
/// share anew.
#[test]
fn consecutive_outages_do_not_each_grant_half_a_share() {
    let outage = Outage { repeat_after_ms: 500, ..OUTAGE };
    simulate(&Scenario { outage: Some(outage), seconds: 10, ..without_faults(3, 30, 0.01, 100) });
}

/// `cargo xtask simulate` runs more seeds. A scenario that breaks the bound is printed with its seed.
#[test]
fn no_scenario_exceeds_its_bound() {
    let setting =
        |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count) = (setting("PHASE6_FIRST_SEED", 0), setting("PHASE6_SEEDS", 1_000));
    let steps: u64 = (first..first + count).map(|seed| simulate(&Scenario::from_seed(seed)).steps).sum();
    println!("seeds {first} to {}: {steps} steps", first + count - 1);
    assert!(count < 1_000 || steps > 40_000_000, "{steps} steps");
}

#[test]
fn a_seed_reproduces_its_scenario() {
    for seed in 0..10 {
        assert_eq!(simulate(&Scenario::from_seed(seed)), simulate(&Scenario::from_seed(seed)));
    }
    assert_ne!(simulate(&Scenario::from_seed(2)), simulate(&Scenario::from_seed(4)));
}
