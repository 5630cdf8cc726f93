//! What cases do with a cluster: the commands of its users, and questions by the API.

use std::{future::Future, time::Duration};

use http::Request;
use kube::Client;
use serde_json::Value;
use tokio::{process::Command, time::Instant};

/// Longest time for a command.
const PATIENCE: Duration = Duration::from_mins(5);

/// Runs a program, and tells what it printed if it succeeds.
pub async fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.map_err(|_| format!("{program} {arguments:?} takes too long"))?;
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(told);
    }
    Err(format!("{program} {}: {}{told}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// Runs a program that must succeed.
pub async fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The answer to a GET of the API server, if it is JSON.
pub async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = Request::get(path).body(vec![]).unwrap();
    let text = client.request_text(request).await.map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("{path}: {error}: {text}"))
}

/// Waits until something is there; `what` names it when it never is.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let due = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < due, "not within {} s: {what}", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
