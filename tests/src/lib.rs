//! Helpers of the tests of the whole system: the program, a fleet as a process, and the servers around it.
//!
//! Every process listens on free ports, works in its own folder, and ends by its id when its value is
//! dropped.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a failed test panics")]
#![allow(missing_docs, reason = "names say it; these are helpers of tests")]

mod api_server;
mod collector;
mod fleet;
mod gateway;
pub mod markdown;
pub mod namespace;
mod prometheus;
mod redis;
mod redis_topologies;
mod service_process;
mod upstream;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

pub use api_server::{ApiServer, PodState};
pub use collector::{Collector, ReceivedSpan};
pub use fleet::{EXAMPLE, Fleet, Line, Program, example_without, free_ports, retuned, run_to_exit};
pub use gateway::Gateway;
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use redis_topologies::{RedisCluster, RedisSentinels};
use serde_json::{Value, json};
pub use service_process::ServiceProcess;
pub use upstream::{ProbeCounts, Readiness, Upstream};

/// Result of a command that ran to its end.
#[derive(Debug)]
pub struct CommandResult {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    pub output: String,
    pub errors: String,
}

/// Names of all services, in the order of the catalog.
pub fn services() -> impl Iterator<Item = &'static str> {
    phase6_catalog::SERVICES.iter().map(|service| service.name)
}

/// The root folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns a command of cargo that runs in the root folder of the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // Variables of the test's package. Build scripts of some libraries take them for a change of their
    // environment, and everything that depends on those libraries would be built again.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Path of the program, which is built first if it is out of date. `PHASE6_TEST_PROGRAM` names another build.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("PHASE6_TEST_PROGRAM") {
            return program.into();
        }
        // With the features that a build of the workspace selects, so that nothing is built twice.
        let mut build = cargo(&["build", "--workspace", "--bin", "phase6", "--message-format=json"]);
        let output = build.output().expect("cargo can be started");
        let text = String::from_utf8(output.stdout).unwrap();
        let executable = text.lines().rev().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        executable.unwrap_or_else(|| panic!("no program:\n{}", String::from_utf8_lossy(&output.stderr)))
    })
}

/// Runs the program to its end.
pub fn phase6(arguments: &[&str]) -> CommandResult {
    let output = Command::new(program()).args(arguments).current_dir(root()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    CommandResult {
        code: output.status.code().unwrap_or(-1),
        output: text(output.stdout),
        errors: text(output.stderr),
    }
}

/// A key made by `phase6 keys create`.
#[derive(Debug)]
pub struct ApiKey {
    /// The secret that a client presents.
    pub key: String,
    /// The line of the file of keys.
    pub line: String,
}

impl ApiKey {
    /// Makes a key with this name and role in the default tenant.
    pub fn generate(name: &str, role: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let result = phase6(&["keys", "create", name, "--role", role, "--file", file.to_str().unwrap()]);
        assert_eq!(result.code, 0, "{}", result.errors);
        let key = result.output.lines().find_map(|line| line.strip_prefix("key: ")).unwrap();
        Self { key: key.to_owned(), line: std::fs::read_to_string(&file).unwrap() }
    }
}

/// Returns a compiled policy as the operator publishes it, for a service with this number of replicas.
pub fn policy_document(revision: u64, replicas: u32, policy: &Value) -> String {
    let document = json!({
        "ownerUid": "u", "revision": revision, "generation": 1, "hash": format!("h{revision}"),
        "publishedAt": "", "replicas": replicas, "policy": policy,
    });
    document.to_string()
}

/// A client of HTTP/1.1 with a timeout of 30 s.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap()
}

/// Waits up to 20 s until `condition` holds; `description` names it in the panic if it never does.
pub async fn wait_until<F: Future<Output = bool>>(description: &str, mut condition: impl FnMut() -> F) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "timed out waiting until {description}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
