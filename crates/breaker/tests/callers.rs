//! Many callers of one peer whose answers come late, in any order or never, under settings that change and a clock
//! that jumps: the breaker does at each step what a model of it does that keeps everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod simulation;

use simulation::{Sum, simulate};

fn worlds(from: u64, seeds: u64) -> Sum {
    let mut all = Sum::default();
    for seed in from..from + seeds {
        all += simulate(seed, seeds == 1);
    }
    all
}

/// `cargo xtask simulate` goes through more of them. One in which the breaker does otherwise is printed with its
/// seed.
#[test]
fn in_every_world_the_breaker_does_what_its_model_does() {
    let setting = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (from, seeds) = (setting("PHASE6_FIRST_SEED", 0), setting("PHASE6_SEEDS", 1_000));
    let all = worlds(from, seeds);
    println!("seeds {from} to {}: {all:?}", from + seeds - 1);
    // Worlds in which a breaker always lets through, or never, would show nothing.
    let least = all.steps / 1_000;
    assert!(
        seeds < 500
            || [all.admitted, all.refused, all.probes, all.opened, all.closed].iter().all(|n| *n > least),
        "{all:?}"
    );
}

#[test]
fn a_seed_gives_the_same_world_again() {
    assert_eq!(worlds(0, 20), worlds(0, 20));
    assert_ne!(worlds(0, 2).history, worlds(2, 2).history);
}
