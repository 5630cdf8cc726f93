//! `cargo xtask chaos`: services under load while their Redis is killed, frozen, emptied or slowed down.
//!
//! The tests are those that `cargo xtask test` runs with fewer rounds; here each prints what it measured.

use crate::{
    run::{cargo, succeed},
    servers::provide,
};

/// Rounds of each fault in a long run.
pub(crate) const ROUNDS: u32 = 50;

/// Installs the programs that lose packets in a network namespace.
pub(crate) fn provide_tools() -> Result<(), String> {
    provide("ip", "iproute2")?;
    provide("nft", "nftables")
}

pub(crate) fn run(rounds: u32) -> Result<(), String> {
    provide("redis-server", "redis-server")?;
    provide_tools()?;
    let tests = ["test", "--locked", "--package", "phase6-tests", "--test", "chaos", "--", "--nocapture"];
    succeed(cargo(&tests).env("PHASE6_CHAOS_ROUNDS", rounds.to_string()))
}
