//! `cargo xtask simulate`: limits and breakers in many worlds and the cache through many sequences, each of which a
//! seed gives again.
//!
//! The tests are those that `cargo test` runs for fewer seeds.

use std::process::Command;

use crate::run::{cargo, succeed};

/// Worlds of a long run.
const WORLDS: u64 = 10_000;
/// Worlds of callers whose breaker is held against its model.
const CALLERS: u64 = 100_000;
/// Sequences of requests that the cache is held against its model for.
const SEQUENCES: u64 = 1_000_000;

/// Which seeds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seeds {
    /// The first one.
    pub(crate) from: u64,
    /// How many; none: those of a long run.
    pub(crate) count: Option<u64>,
}

impl Seeds {
    fn of(self, mut command: Command, usual: u64) -> Command {
        let count = self.count.unwrap_or(usual);
        command.args(["--", "--nocapture"]);
        command.env("PHASE6_FIRST_SEED", self.from.to_string()).env("PHASE6_SEEDS", count.to_string());
        command
    }
}

/// Worlds of replicas that share limits.
pub(crate) fn limits(seeds: Seeds) -> Result<(), String> {
    let tests = ["test", "--locked", "--package", "phase6-ratelimit", "--test", "replicas", "in_every_world"];
    succeed(&mut seeds.of(cargo(&tests), WORLDS))
}

/// Callers of a peer behind a breaker.
pub(crate) fn breaker(seeds: Seeds) -> Result<(), String> {
    let tests =
        ["test", "--locked", "--package", "phase6-breaker", "--test", "simulation", "breaker_matches"];
    succeed(&mut seeds.of(cargo(&tests), CALLERS))
}

/// Replicas that want an answer which none of them has.
pub(crate) fn flights(seeds: Seeds) -> Result<(), String> {
    let tests = ["test", "--locked", "--package", "phase6-cache", "--test", "flights", "in_every_world"];
    succeed(&mut seeds.of(cargo(&tests), WORLDS))
}

/// Sequences of requests to the cache.
pub(crate) fn cache(seeds: Seeds) -> Result<(), String> {
    succeed(&mut sequences(seeds))
}

/// The same as a command. A million is a matter of a minute for an optimised build, of six for another one.
pub(crate) fn sequences(seeds: Seeds) -> Command {
    let tests =
        ["test", "--release", "--locked", "--package", "phase6-cache", "--test", "sequences", "in_every"];
    seeds.of(cargo(&tests), SEQUENCES)
}
