//! One service as a process, as a pod runs it: `phase6 serve NAME`.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::{Program, client, free_ports};

/// Longest time until a service is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running service and its folder.
pub struct ServiceProcess {
    pub program: Program,
    pub port: u16,
    pub http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl ServiceProcess {
    /// Starts the service `name` with further arguments, and waits until it is ready.
    pub async fn start(name: &str, arguments: &[&str]) -> Self {
        Self::with_environment(name, arguments, &[]).await
    }

    /// Starts the service `name` with these environment variables.
    pub async fn with_environment(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, data) = (free_ports(), folder.path().join("data"));
        let text = port.to_string();
        let mut all = vec!["serve", name, "--port", &text, "--data", data.to_str().unwrap()];
        all.extend(arguments);
        let program = Program::start(&all, environment);
        let mut service = Self { program, port, http: client(), _folder: folder };
        let deadline = Instant::now() + READY_LIMIT;
        while service.get("/readyz").await.is_none_or(|(status, _)| status != 200) {
            assert!(!service.program.has_exited(), "{name} does not start: {}", service.program.errors());
            assert!(Instant::now() < deadline, "{name} is not ready: {}", service.program.errors());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Sends a GET request. Returns the status and the JSON of the response, or `None` if there is no response.
    pub async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let response = self.http.get(self.url(path)).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.unwrap_or_default()))
    }

    /// Text of `/metrics`; empty if there is no response.
    pub async fn metrics(&self) -> String {
        match self.http.get(self.url("/metrics")).send().await {
            Ok(response) => response.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// True if the service's gauges show that it shares limits and cached responses with other replicas.
    pub async fn is_shared(&self) -> bool {
        let metrics = self.metrics().await;
        ["phase6_ratelimit_shared", "phase6_cache_shared"]
            .iter()
            .all(|name| metrics.lines().any(|line| line.starts_with(name) && line.ends_with(" 1")))
    }

    /// JSON of `/policyz`; null if there is no response.
    pub async fn policy(&self) -> Value {
        self.get("/policyz").await.map_or(Value::Null, |(_, policy)| policy)
    }

    /// Stops the service as a supervisor does. Returns the exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.program.signal(Signal::TERM);
        self.program.wait_for_exit(Duration::from_secs(10))
    }
}
