//! Limits and cached responses shared through a Redis with failover: a cluster, and a master under sentinels.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::path::Path;

use phase6_tests::{RedisCluster, RedisSentinels, ServiceProcess, policy_document, wait_until};
use serde_json::json;

/// A path whose limit is 12 requests.
const LIMITED: &str = "/api/v1/budget";
/// A path without a limit, whose responses are cached.
const CACHED: &str = "/api/v1/providers/policy";

fn write_policy(folder: &Path) -> String {
    let file = folder.join("policy.json");
    let policy = json!({"cache": {"ttl": "60s"}, "rateLimit": {
        "capacity": 1_000, "refillPerSecond": 1_000,
        "overrides": [{"match": {"path": LIMITED}, "capacity": 12, "refillPerSecond": 0.001}],
    }});
    std::fs::write(&file, policy_document(1, 2, &policy)).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Sends ten requests to the limited path, and returns how many are admitted.
async fn admitted(service: &ServiceProcess) -> usize {
    let mut admitted = 0;
    for _ in 0..10 {
        match service.get(LIMITED).await.unwrap().0 {
            200 => admitted += 1,
            status => assert_eq!(status, 429),
        }
    }
    admitted
}

/// Sends a request to the cached path, and returns true if the cache had the response.
async fn is_hit(service: &ServiceProcess) -> bool {
    let response = service.http.get(service.url(CACHED)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.headers()["cache-status"].to_str().unwrap().contains("hit")
}

/// Checks that two replicas admit a limit once and share cached responses, before and after `failover`.
async fn check_sharing(name: &str, url: &str, failover: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let policy = write_policy(folder.path());
    let arguments = ["--policy", &policy, "--redis", url, "--shared-as", name];
    let replicas = [
        ServiceProcess::start("budget", &arguments).await,
        ServiceProcess::start("budget", &arguments).await,
    ];
    for service in &replicas {
        wait_until("limits and responses are shared", || service.is_shared()).await;
    }
    assert_eq!(admitted(&replicas[0]).await, 10, "{name}");
    assert_eq!(admitted(&replicas[1]).await, 2, "{name}: both replicas draw on one bucket");
    assert!(!is_hit(&replicas[0]).await, "{name}");
    wait_until("the other replica has the response too", || is_hit(&replicas[1])).await;
    let invalidate = replicas[0].url("/api/v1/cache/invalidate");
    let response = replicas[0].http.post(invalidate).json(&json!({"all": true})).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!is_hit(&replicas[1]).await, "{name}: one replica invalidates for both");

    failover();
    for service in &replicas {
        wait_until("limits and responses are shared again", || service.is_shared()).await;
    }
    let admitted = admitted(&replicas[0]).await;
    assert!(
        admitted <= 6,
        "{name}: tokens used before stay used, and the replicas may admit half of the limit during the failover"
    );
    for service in replicas {
        assert_eq!(service.stop(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_through_a_cluster_before_and_after_a_failover() {
    let cluster = RedisCluster::start();
    let url = cluster.url();
    // With this name the keys of the limits and those of the responses are on different masters.
    check_sharing("under-a-cluster", &url, || {
        cluster.swap_master("{phase6:2:limit:under-a-cluster}");
        cluster.swap_master("{phase6:2:cache:under-a-cluster}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_through_the_master_of_sentinels_before_and_after_a_failover() {
    let mut redis = RedisSentinels::start();
    let url = redis.url();
    check_sharing("under-sentinels", &url, || {
        redis.kill_master();
        redis.wait_for_failover();
    })
    .await;
}
