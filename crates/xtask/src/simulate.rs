//! `cargo xtask simulate`: limits in many worlds, each of which a seed gives again.
//!
//! The test is the one that `cargo xtask test` runs for fewer seeds.

use crate::run::{cargo, succeed};

/// Worlds of a long run.
pub(crate) const SEEDS: u64 = 10_000;

pub(crate) fn run(from: u64, seeds: u64) -> Result<(), String> {
    let tests = ["test", "--locked", "--package", "phase6-ratelimit", "--test", "replicas", "in_every_world"];
    let mut command = cargo(&tests);
    command.args(["--", "--nocapture"]);
    succeed(command.env("PHASE6_FIRST_SEED", from.to_string()).env("PHASE6_SEEDS", seeds.to_string()))
}
