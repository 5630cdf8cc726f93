//! `cargo xtask chaos`: services under load while their Redis is killed, frozen, emptied or slowed down, and jobs
//! whose holders are killed.
//!
//! The tests are those that `cargo xtask test` runs with fewer rounds; here each prints what it measured.

use crate::{
    run::{cargo, succeed},
    servers::{self, provide},
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
    let postgres = servers::postgres()?;
    let test = |name: &str, arguments: &[&str]| {
        let tests = ["test", "--locked", "--package", "phase6-tests", "--test", name, "--", "--nocapture"];
        let mut command = cargo(&[&tests[..], arguments].concat());
        succeed(
            command.env("PHASE6_CHAOS_ROUNDS", rounds.to_string()).env("PHASE6_TEST_POSTGRES", &postgres.url),
        )
    };
    test("chaos", &[])?;
    test("jobs", &["--include-ignored"])
}
