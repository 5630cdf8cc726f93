//! `cargo xtask simulate`: limits, breakers and shared fills in many simulated scenarios, and the cache
//! through many sequences of requests. A seed replays each of them.
//!
//! The tests are those that `cargo xtask test` runs with fewer seeds.

use std::process::Command;

use crate::run::{cargo, succeed};

/// Scenarios of a long run.
const SCENARIOS: u64 = 10_000;
/// Scenarios of callers behind a breaker that is compared with its model.
const BREAKER_SCENARIOS: u64 = 100_000;
/// Sequences of requests for which the cache is compared with its oracle.
const SEQUENCES: u64 = 1_000_000;

/// Range of seeds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seeds {
    /// First seed.
    pub(crate) from: u64,
    /// Number of seeds, or `None` for that of a long run.
    pub(crate) count: Option<u64>,
}

impl Seeds {
    fn apply(self, mut command: Command, default: u64) -> Command {
        let count = self.count.unwrap_or(default);
        command.args(["--", "--nocapture"]);
        command.env("PHASE6_FIRST_SEED", self.from.to_string()).env("PHASE6_SEEDS", count.to_string());
        command
    }
}

/// Simulates replicas that share limits.
pub(crate) fn limits(seeds: Seeds) -> Result<(), String> {
    let tests = ["test", "--locked", "--package", "phase6-ratelimit", "--test", "replicas", "no_scenario"];
    succeed(&mut seeds.apply(cargo(&tests), SCENARIOS))
}

/// Simulates callers of a peer behind a breaker.
pub(crate) fn breaker(seeds: Seeds) -> Result<(), String> {
    let tests =
        ["test", "--locked", "--package", "phase6-breaker", "--test", "simulation", "breaker_matches"];
    succeed(&mut seeds.apply(cargo(&tests), BREAKER_SCENARIOS))
}

/// Simulates replicas that need one response which none of them has.
pub(crate) fn fills(seeds: Seeds) -> Result<(), String> {
    let tests = ["test", "--locked", "--package", "phase6-cache", "--test", "fill_lock", "in_every_scenario"];
    succeed(&mut seeds.apply(cargo(&tests), SCENARIOS))
}

/// Compares the cache with its oracle. A million sequences take a minute in an optimized build, and six in
/// another one.
pub(crate) fn cache(seeds: Seeds) -> Result<(), String> {
    let tests = [
        "test",
        "--release",
        "--locked",
        "--package",
        "phase6-cache",
        "--test",
        "rfc9111_oracle",
        "in_every",
    ];
    succeed(&mut seeds.apply(cargo(&tests), SEQUENCES))
}

/// Returns the command that compares the cache with its oracle, in the build that the other tests use.
pub(crate) fn sequences(count: u64) -> Command {
    let seeds = Seeds { from: 0, count: Some(count) };
    let tests = ["test", "--locked", "--workspace", "--test", "rfc9111_oracle", "in_every"];
    seeds.apply(cargo(&tests), SEQUENCES)
}
