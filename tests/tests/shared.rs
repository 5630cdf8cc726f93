//! Two replicas of one service as two processes, which share limits through a real Redis.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use phase6_tests::{Served, until};
use serde_json::json;

fn redis() -> String {
    std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one")
}

fn write(policy: &Path, revision: u64, rate_limit: serde_json::Value) {
    let document = json!({
        "ownerUid": "u", "revision": revision, "generation": 1, "hash": format!("h{revision}"),
        "publishedAt": "", "replicas": 2, "policy": {"rateLimit": rate_limit},
    });
    std::fs::write(policy, document.to_string()).unwrap();
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
    assert_eq!((&limiter["scope"], &limiter["shared"]["gone"]), (&json!("Shared"), &json!(false)), "{shown}");
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
