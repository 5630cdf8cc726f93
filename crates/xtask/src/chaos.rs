//! `cargo xtask chaos`: services under load while all kinds of things happen to their Redis.
//!
//! The tests are those that `cargo xtask test` runs at a smaller count; here each says what it measured.

use crate::{
    run::{cargo, succeed},
    servers::provide,
};

/// Rounds of each fault in the long run.
pub(crate) const ROUNDS: u32 = 50;

/// What loses packets in a network namespace.
pub(crate) fn network() -> Result<(), String> {
    provide("ip", "iproute2")?;
    provide("nft", "nftables")
}

pub(crate) fn run(rounds: u32) -> Result<(), String> {
    provide("redis-server", "redis-server")?;
    network()?;
    let tests = ["test", "--locked", "--package", "phase6-tests", "--test", "chaos", "--", "--nocapture"];
    succeed(cargo(&tests).env("PHASE6_CHAOS_ROUNDS", rounds.to_string()))
}
