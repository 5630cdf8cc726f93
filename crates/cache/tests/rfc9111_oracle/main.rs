//! The cache against an oracle: random sequences of requests, invalidations, policy changes and faults, with
//! every response checked against a model of RFC 9111 and of tenant isolation. The same seed gives the same
//! sequence.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod model;
mod origin;
mod run;
#[path = "../support/seeded_rng.rs"]
mod seeded_rng;
mod slow_level;

use run::{Summary, run};

fn run_sequences(first_seed: u64, seeds: u64) -> Summary {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut total = Summary::default();
    for seed in first_seed..first_seed + seeds {
        total += runtime.block_on(run(seed, seeds == 1));
    }
    total
}

/// `cargo xtask simulate` runs a million of them. A panic names the seed of the sequence that breaks a rule.
#[test]
fn in_every_sequence_each_response_is_allowed_by_the_model() {
    let setting =
        |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first_seed, seeds) = (setting("PHASE6_FIRST_SEED", 0), setting("PHASE6_SEEDS", 10_000));
    let total = run_sequences(first_seed, seeds);
    println!("seeds {first_seed} to {}: {total:?}", first_seed + seeds - 1);
    // Sequences in which no response is shared would prove nothing.
    let is_exercised = total.shared * 12 > total.responses && total.required_hits * 60 > total.responses;
    assert!(seeds < 1_000 || is_exercised, "{total:?}");
}

#[test]
fn equal_seeds_give_equal_sequences() {
    assert_eq!(run_sequences(0, 200), run_sequences(0, 200));
    assert_ne!(run_sequences(0, 2).fingerprint, run_sequences(2, 2).fingerprint);
}
