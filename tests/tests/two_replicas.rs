//! Two replicas of a service as two processes, which share limits and cached responses through a real Redis.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::HashMap, path::Path};

use phase6_tests::{ApiKey, ServiceProcess, phase6, policy_document, wait_until};
use serde_json::{Value, json};

/// An address at which nothing listens.
const NO_REDIS: &str = "redis://127.0.0.1:1";

fn redis_url() -> String {
    std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one")
}

fn write_policy(file: &Path, revision: u64, policy: &Value) {
    std::fs::write(file, policy_document(revision, 2, policy)).unwrap();
}

fn write_limit(file: &Path, revision: u64, rate_limit: Value) {
    write_policy(file, revision, &json!({"rateLimit": rate_limit}));
}

async fn start_replica(name: &str, policy: &Path, url: &str) -> ServiceProcess {
    let policy = policy.to_str().unwrap();
    ServiceProcess::start("budget", &["--policy", policy, "--redis", url, "--shared-as", name]).await
}

async fn wait_for_revision(service: &ServiceProcess, revision: u64) {
    wait_until("the revision is in force", || async { service.policy().await["revision"] == revision }).await;
}

/// Sends requests, and returns how many are admitted.
async fn admitted(service: &ServiceProcess, requests: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..requests {
        match service.get("/api/v1/budget").await.unwrap().0 {
            200 => admitted += 1,
            status => assert_eq!(status, 429),
        }
    }
    admitted
}

/// Returns the report of `/api/v1/system/observability`.
async fn observability(service: &ServiceProcess) -> Value {
    service.get("/api/v1/system/observability").await.unwrap().1
}

/// Sends a request, and returns its `Cache-Status`.
async fn cache_status(service: &ServiceProcess, path: &str) -> String {
    let response = service.http.get(service.url(path)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let status = response.headers().get("cache-status").map(|value| value.to_str().unwrap().to_owned());
    status.unwrap_or_default()
}

/// Returns the cells of the first row of a table.
fn first_row(table: &str) -> Vec<&str> {
    table.lines().nth(1).unwrap().split_whitespace().collect()
}

/// Returns the base port from which the program derives the port of this replica of `budget`.
fn base_port(service: &ServiceProcess) -> String {
    (service.port - 3).to_string()
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn replicas_admit_a_shared_limit_once_and_an_edit_acts_on_both() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    let name = format!("test-{:x}", std::process::id());
    write_limit(&policy, 1, json!({"capacity": 6, "refillPerSecond": 0.001}));
    let first = start_replica(&name, &policy, &redis_url()).await;
    let second = start_replica(&name, &policy, &redis_url()).await;
    // One replica after the other: the first one may admit the whole limit, not only its half.
    assert_eq!(admitted(&first, 10).await, 6);
    assert_eq!(admitted(&second, 10).await, 0);
    write_limit(&policy, 2, json!({"capacity": 10, "refillPerSecond": 0.001}));
    wait_for_revision(&first, 2).await;
    wait_for_revision(&second, 2).await;
    assert_eq!(admitted(&second, 10).await, 4, "a raise takes effect at once, less the tokens already used");
    assert_eq!(admitted(&first, 10).await, 0);
    write_limit(&policy, 3, json!({"capacity": 10, "refillPerSecond": 0.001, "mode": "Off"}));
    wait_for_revision(&second, 3).await;
    let report = observability(&second).await;
    let limiter = &report["rateLimiter"];
    assert_eq!(
        (&limiter["scope"], &limiter["shared"]["unavailable"]),
        (&json!("Shared"), &json!(false)),
        "{report}"
    );
    for service in [first, second] {
        assert_eq!(service.stop(), Some(0));
    }
}

#[tokio::test]
async fn without_redis_a_replica_limits_as_on_backend_failure_states() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    write_limit(&policy, 1, json!({"capacity": 12, "refillPerSecond": 0.001}));
    let service = start_replica("nobody", &policy, NO_REDIS).await;
    assert_eq!(admitted(&service, 20).await, 3, "half of its share of six, because earlier use is unknown");
    write_limit(&policy, 2, json!({"capacity": 12, "refillPerSecond": 0.001, "onBackendFailure": "Deny"}));
    wait_for_revision(&service, 2).await;
    assert_eq!(admitted(&service, 5).await, 0);
    write_limit(&policy, 3, json!({"capacity": 12, "refillPerSecond": 0.001, "onBackendFailure": "Allow"}));
    wait_for_revision(&service, 3).await;
    assert_eq!(admitted(&service, 30).await, 30);
    let metrics = service.metrics().await;
    for line in [
        "phase6_ratelimit_backend_failure_total{mode=\"Allow\",service=\"budget\"} 30",
        "phase6_ratelimit_backend_failure_total{mode=\"Deny\",service=\"budget\"} 5",
        "phase6_ratelimit_backend_failure_total{mode=\"LocalShare\",service=\"budget\"} 20",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(service.stop(), Some(0));
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn replicas_share_cached_responses_and_their_invalidation() {
    const PATH: &str = "/api/v1/providers/policy";
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    let name = format!("test-cache-{:x}", std::process::id());
    write_policy(&policy, 1, &json!({"cache": {"ttl": "60s"}}));
    let first = start_replica(&name, &policy, &redis_url()).await;
    let second = start_replica(&name, &policy, &redis_url()).await;
    for service in [&first, &second] {
        wait_until("the replica reads the invalidation log", || async {
            observability(service).await["cache"]["secondLevel"]["inSync"] == true
        })
        .await;
    }
    assert_eq!(cache_status(&first, PATH).await, "budget; fwd=uri-miss; stored");
    wait_until("the response is in Redis", || async {
        observability(&first).await["cache"]["secondLevel"]["writes"] == 1
    })
    .await;
    let status = cache_status(&second, PATH).await;
    assert!(status.starts_with("budget; hit") && status.ends_with("second-level"), "{status}");
    // The request to invalidate goes to one replica.
    let arguments = ["cache", "purge", "--path", PATH, "--only", "budget", "--base-port", &base_port(&first)];
    let result = phase6(&arguments);
    assert_eq!(result.code, 0, "{result:?}");
    let row = first_row(&result.output);
    assert_eq!((row[0], row[2], row[3]), ("budget", "1", "yes"), "{result:?}");
    wait_until("the other replica has invalidated it too", || async {
        cache_status(&second, PATH).await == "budget; fwd=uri-miss; stored"
    })
    .await;
    for service in [first, second] {
        assert_eq!(service.stop(), Some(0));
    }
}

#[tokio::test]
async fn without_redis_a_purge_reports_that_other_replicas_were_not_reached() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    write_policy(&policy, 1, &json!({"cache": {"ttl": "60s"}}));
    let service = start_replica("nobody", &policy, NO_REDIS).await;
    let result =
        phase6(&["cache", "purge", "--all", "--only", "budget", "--base-port", &base_port(&service)]);
    assert_eq!((result.code, first_row(&result.output)[3]), (1, "no"), "{result:?}");
    assert_eq!(service.stop(), Some(0));
}

#[tokio::test]
async fn where_keys_are_required_only_an_admin_may_purge() {
    let folder = tempfile::tempdir().unwrap();
    let keys: HashMap<&str, ApiKey> =
        ["admin", "member"].map(|role| (role, ApiKey::generate("alice", role))).into();
    let file = folder.path().join("keys");
    let lines: Vec<&str> = keys.values().map(|key| key.line.as_str()).collect();
    std::fs::write(&file, lines.concat()).unwrap();
    let policy = folder.path().join("policy.json");
    write_policy(&policy, 1, &json!({"cache": {"ttl": "60s"}}));
    let (policy, file) = (policy.to_str().unwrap(), file.to_str().unwrap());
    let service = ServiceProcess::start("budget", &["--policy", policy, "--api-keys", file]).await;
    let base_port = base_port(&service);
    for (role, code, text) in
        [("member", 1, "the role `member` may not do this; required: `admin`"), ("admin", 0, "yes")]
    {
        let target = ["--only", "budget", "--base-port", &base_port, "--api-key", &keys[role].key];
        let result = phase6(&[&["cache", "purge", "--tag", "x"], &target[..]].concat());
        assert!(result.code == code && result.output.contains(text), "{role}: {result:?}");
    }
    assert_eq!(service.stop(), Some(0));
}
