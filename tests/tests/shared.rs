//! Two replicas of one service as two processes, which share limits and cached answers through a real Redis.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use phase6_tests::{Served, phase6, until};
use serde_json::json;

fn redis() -> String {
    std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one")
}

fn write(policy: &Path, revision: u64, rate_limit: serde_json::Value) {
    write_policy(policy, revision, json!({"rateLimit": rate_limit}));
}

fn write_policy(file: &Path, revision: u64, policy: serde_json::Value) {
    let document = json!({
        "ownerUid": "u", "revision": revision, "generation": 1, "hash": format!("h{revision}"),
        "publishedAt": "", "replicas": 2, "policy": policy,
    });
    std::fs::write(file, document.to_string()).unwrap();
}

async fn replica(name: &str, policy: &Path, url: &str) -> Served {
    let policy = policy.to_str().unwrap();
    Served::start("budget", &["--policy", policy, "--redis", url, "--shared-as", name]).await
}

async fn revision(served: &Served, wanted: u64) {
    until("the revision is in force", || async { served.policy().await["revision"] == wanted }).await;
}

/// How many of so many requests are admitted.
async fn admitted(served: &Served, requests: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..requests {
        match served.get("/api/v1/budget").await.unwrap().0 {
            200 => admitted += 1,
            status => assert_eq!(status, 429),
        }
    }
    admitted
}

#[tokio::test]
async fn replicas_admit_a_shared_limit_once_and_a_retune_acts_on_both() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    let name = format!("test-{:x}", std::process::id());
    write(&policy, 1, json!({"capacity": 6, "refillPerSecond": 0.001}));
    let (first, second) = (replica(&name, &policy, &redis()).await, replica(&name, &policy, &redis()).await);
    // One after the other: whoever comes first gets all of it, not a half.
    assert_eq!(admitted(&first, 10).await, 6);
    assert_eq!(admitted(&second, 10).await, 0);
    write(&policy, 2, json!({"capacity": 10, "refillPerSecond": 0.001}));
    revision(&first, 2).await;
    revision(&second, 2).await;
    assert_eq!(admitted(&second, 10).await, 4, "a raise acts at once, less what was used");
    assert_eq!(admitted(&first, 10).await, 0);
    write(&policy, 3, json!({"capacity": 10, "refillPerSecond": 0.001, "mode": "Off"}));
    revision(&second, 3).await;
    let (_, shown) = second.get("/api/v1/system/observability").await.unwrap();
    let limiter = &shown["rateLimiter"];
    assert_eq!(
        (&limiter["scope"], &limiter["shared"]["unavailable"]),
        (&json!("Shared"), &json!(false)),
        "{shown}"
    );
    for served in [first, second] {
        assert_eq!(served.stop(), Some(0));
    }
}

#[tokio::test]
async fn without_its_redis_a_replica_goes_on_as_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    write(&policy, 1, json!({"capacity": 12, "refillPerSecond": 0.001}));
    let served = replica("nobody", &policy, "redis://127.0.0.1:1").await;
    assert_eq!(admitted(&served, 20).await, 3, "half of its share of six: what came before is not known");
    write(&policy, 2, json!({"capacity": 12, "refillPerSecond": 0.001, "onBackendFailure": "Deny"}));
    revision(&served, 2).await;
    assert_eq!(admitted(&served, 5).await, 0);
    write(&policy, 3, json!({"capacity": 12, "refillPerSecond": 0.001, "onBackendFailure": "Allow"}));
    revision(&served, 3).await;
    assert_eq!(admitted(&served, 30).await, 30);
    let metrics = served.http.get(format!("http://127.0.0.1:{}/metrics", served.port)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "phase6_ratelimit_backend_failure_total{mode=\"Allow\",service=\"budget\"} 30",
        "phase6_ratelimit_backend_failure_total{mode=\"Deny\",service=\"budget\"} 5",
        "phase6_ratelimit_backend_failure_total{mode=\"LocalShare\",service=\"budget\"} 20",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(served.stop(), Some(0));
}

/// What `Cache-Status` says of a request.
async fn cache_status(served: &Served, path: &str) -> String {
    let url = format!("http://127.0.0.1:{}{path}", served.port);
    let answer = served.http.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let status = answer.headers().get("cache-status").map(|value| value.to_str().unwrap().to_owned());
    status.unwrap_or_default()
}

#[tokio::test]
async fn replicas_share_answers_and_forget_them_together() {
    const PATH: &str = "/api/v1/providers/policy";
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    let name = format!("test-cache-{:x}", std::process::id());
    write_policy(&policy, 1, json!({"cache": {"ttl": "60s"}}));
    let (first, second) = (replica(&name, &policy, &redis()).await, replica(&name, &policy, &redis()).await);
    for served in [&first, &second] {
        until("it hears of what others forget", || async {
            let (_, shown) = served.get("/api/v1/system/observability").await.unwrap();
            shown["cache"]["secondLevel"]["inSync"] == true
        })
        .await;
    }
    assert_eq!(cache_status(&first, PATH).await, "budget; fwd=uri-miss; stored");
    until("it is in Redis", || async {
        let (_, shown) = first.get("/api/v1/system/observability").await.unwrap();
        shown["cache"]["secondLevel"]["writes"] == 1
    })
    .await;
    let status = cache_status(&second, PATH).await;
    assert!(status.starts_with("budget; hit") && status.ends_with("second-level"), "{status}");
    // One replica is told, and both have forgotten.
    let base_port = (first.port - 3).to_string();
    let arguments = ["cache", "purge", "--path", PATH, "--only", "budget", "--base-port", &base_port];
    let (code, shown, errors) = phase6(&arguments);
    assert_eq!(code, 0, "{shown}{errors}");
    let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[2], row[3]), ("budget", "1", "yes"), "{shown}");
    until("the other one has forgotten", || async {
        cache_status(&second, PATH).await == "budget; fwd=uri-miss; stored"
    })
    .await;
    for served in [first, second] {
        assert_eq!(served.stop(), Some(0));
    }
}

#[tokio::test]
async fn without_its_redis_a_replica_forgets_and_says_that_others_were_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    write_policy(&policy, 1, json!({"cache": {"ttl": "60s"}}));
    let served = replica("nobody", &policy, "redis://127.0.0.1:1").await;
    let base_port = (served.port - 3).to_string();
    let (code, shown, _) =
        phase6(&["cache", "purge", "--all", "--only", "budget", "--base-port", &base_port]);
    let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((code, row[3]), (1, "no"), "{shown}");
    assert_eq!(served.stop(), Some(0));
}

#[tokio::test]
async fn where_keys_are_required_only_the_admin_may_make_services_forget() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let mut lines = Vec::new();
    let mut key_of = std::collections::HashMap::new();
    for owner in ["admin", "alice"] {
        let (_, made, _) = phase6(&["key", owner]);
        let said = |what: &str| made.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim();
        lines.push(said("line:").to_owned());
        key_of.insert(owner, said("key:").to_owned());
    }
    std::fs::write(&keys, lines.join("\n")).unwrap();
    let policy = folder.path().join("policy.json");
    write_policy(&policy, 1, json!({"cache": {"ttl": "60s"}}));
    let (policy, keys) = (policy.to_str().unwrap(), keys.to_str().unwrap());
    let served = Served::start("budget", &["--policy", policy, "--api-keys", keys]).await;
    let base_port = (served.port - 3).to_string();
    for (owner, code, told) in [("alice", 1, "only the API key of `admin`"), ("admin", 0, "yes")] {
        let key = &key_of[owner];
        let asked = ["--only", "budget", "--base-port", &base_port, "--api-key", key];
        let (ended, shown, _) = phase6(&[&["cache", "purge", "--tag", "x"], &asked[..]].concat());
        assert!(ended == code && shown.contains(told), "{owner}: {shown}");
    }
    assert_eq!(served.stop(), Some(0));
}
