//! What tests of the whole system share: the program, a fleet that runs, an upstream that does as
//! it is told.
//!
//! Every process is started on free ports in a folder of its own and ended by its id.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on panics")]
#![allow(missing_docs, reason = "names say it; these are helpers of tests")]

mod api_server;
mod collector;
mod fleet;
mod gateway;
pub mod markdown;
pub mod namespace;
mod prometheus;
mod redis;
mod redis_kinds;
mod served;
mod upstream;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

pub use api_server::{ApiServer, Stands};
pub use collector::{Collector, Heard};
pub use fleet::{EXAMPLE, Fleet, Program, free_ports, refused, retuned, without};
pub use gateway::Gateway;
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use redis_kinds::{RedisCluster, RedisSentinels};
pub use served::Served;
pub use upstream::{Probes, Upstream};

/// Names of all services, in the order of the catalog.
pub fn services() -> impl Iterator<Item = &'static str> {
    phase6_catalog::SERVICES.iter().map(|service| service.name)
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The program, built if it is not up to date.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            // As the workspace builds it, so that nothing is built twice.
            .args(["build", "--workspace", "--bin", "phase6", "--message-format=json"])
            .current_dir(root())
            .output()
            .expect("cargo can be started");
        let text = String::from_utf8(output.stdout).unwrap();
        let executable = text.lines().rev().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        executable.unwrap_or_else(|| panic!("no program:\n{}", String::from_utf8_lossy(&output.stderr)))
    })
}

/// Runs the program to its end: exit code, standard output, standard error.
pub fn phase6(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(program()).args(arguments).current_dir(root()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A client that does not pool, so that every request is a connection of its own.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap()
}

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let due = std::time::Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(std::time::Instant::now() < due, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
