//! Deterministic simulation of a breaker against a reference model.
//!
//! Many callers of one peer whose calls end late, in any order or never, under changing settings and a clock
//! that jumps. After every step the breaker must show what the model shows. A seed reproduces its scenario.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod harness;
mod model;
mod scenario;

use harness::{Summary, simulate};

fn simulate_all(first_seed: u64, seeds: u64) -> Summary {
    let mut total = Summary::default();
    for seed in first_seed..first_seed + seeds {
        total += simulate(seed, seeds == 1);
    }
    total
}

/// `cargo xtask simulate breaker` runs more seeds. A failure prints its seed.
#[test]
fn breaker_matches_its_model_for_every_seed() {
    let variable =
        |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, seeds) = (variable("PHASE6_FIRST_SEED", 0), variable("PHASE6_SEEDS", 1_000));
    let total = simulate_all(first, seeds);
    println!("seeds {first} to {}: {total:?}", first + seeds - 1);
    // Guards the coverage: scenarios in which the breaker always admits or always rejects would prove
    // nothing.
    let minimum = total.steps / 1_000;
    assert!(
        seeds < 500
            || [total.admitted, total.rejected, total.probes, total.opened, total.closed]
                .iter()
                .all(|count| *count > minimum),
        "{total:?}"
    );
}

#[test]
fn a_seed_reproduces_its_scenario() {
    assert_eq!(simulate_all(0, 20), simulate_all(0, 20));
    assert_ne!(simulate_all(0, 2).history, simulate_all(2, 2).history);
}
