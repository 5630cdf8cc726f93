//! One service as a process: `phase6 serve NAME`, as a pod runs it.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::{Program, client, free_ports, until};

/// A service that runs, and its folder.
pub struct Served {
    pub program: Program,
    pub port: u16,
    pub http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Served {
    /// The service `name` with more arguments, once it is ready.
    pub async fn start(name: &str, arguments: &[&str]) -> Self {
        Self::with(name, arguments, &[]).await
    }

    /// The same with settings in its environment.
    pub async fn with(name: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, data) = (free_ports(), folder.path().join("data"));
        let text = port.to_string();
        let mut all = vec!["serve", name, "--port", &text, "--data", data.to_str().unwrap()];
        all.extend(arguments);
        let program = Program::start(&all, settings);
        let served = Self { program, port, http: client(), _folder: folder };
        until("it serves", || async { served.get("/readyz").await.is_some_and(|(status, _)| status == 200) })
            .await;
        served
    }

    /// Status and JSON of an answer; none if there is no answer.
    pub async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let answer = self.http.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.unwrap_or_default()))
    }

    /// What it says of its policy; null if it does not answer.
    pub async fn policy(&self) -> Value {
        self.get("/policyz").await.map_or(Value::Null, |(_, policy)| policy)
    }

    /// Stops it as a supervisor does; the exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.program.signal(Signal::TERM);
        self.program.end(Duration::from_secs(10))
    }
}
