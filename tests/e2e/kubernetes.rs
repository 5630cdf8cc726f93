//! Access of the cases to a cluster: the commands of its users, and requests to its API.

use std::{future::Future, time::Duration};

use http::Request;
use kube::Client;
use serde_json::Value;
use tokio::{process::Command, time::Instant};

/// Longest time for a command.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(5);

/// Runs a program. Returns its output, or an error that contains it.
pub async fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
    let output = output
        .map_err(|_| format!("{program} {arguments:?} takes more than {} s", COMMAND_TIMEOUT.as_secs()))?;
    let output = output.map_err(|error| format!("failed to start {program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{program} {}: {}{text}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// Runs a program that must succeed, and returns its output.
pub async fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Sends a GET request to the API server, and returns the JSON of the response.
pub async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = Request::get(path).body(vec![]).unwrap();
    let text = client.request_text(request).await.map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("{path}: {error}: {text}"))
}

/// Calls `poll` until it returns a value; `description` names the condition in the panic if it never does.
pub async fn wait_until<T, F: Future<Output = Option<T>>>(
    description: &str,
    timeout: Duration,
    mut poll: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "timed out after {} s waiting until {description}",
            timeout.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
