//! Redis as it is run where it must not be lost: as a cluster, and under sentinels.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use phase6_tests::{RedisCluster, RedisSentinels, Served, until};
use serde_json::json;

/// Its limit is twelve.
const LIMITED: &str = "/api/v1/budget";
/// It has none, and is cached.
const CACHED: &str = "/api/v1/providers/policy";

fn policy(folder: &Path) -> String {
    let file = folder.join("policy.json");
    let document = json!({
        "ownerUid": "u", "revision": 1, "generation": 1, "hash": "h1", "publishedAt": "", "replicas": 2,
        "policy": {"cache": {"ttl": "60s"}, "rateLimit": {
            "capacity": 1_000, "refillPerSecond": 1_000,
            "overrides": [{"match": {"path": LIMITED}, "capacity": 12, "refillPerSecond": 0.001}],
        }},
    });
    std::fs::write(&file, document.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// How many of ten requests are admitted.
async fn admitted(served: &Served) -> usize {
    let mut admitted = 0;
    for _ in 0..10 {
        match served.get(LIMITED).await.unwrap().0 {
            200 => admitted += 1,
            status => assert_eq!(status, 429),
        }
    }
    admitted
}

/// Whether the cache had the answer.
async fn was_cached(served: &Served) -> bool {
    let answer = served.http.get(format!("http://127.0.0.1:{}{CACHED}", served.port)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.headers()["cache-status"].to_str().unwrap().contains("hit")
}

/// Whether limits and answers are shared.
async fn shares(served: &Served) -> bool {
    let answer = served.http.get(format!("http://127.0.0.1:{}/metrics", served.port)).send().await.unwrap();
    let metrics = answer.text().await.unwrap();
    ["phase6_ratelimit_shared", "phase6_cache_shared"]
        .iter()
        .all(|name| metrics.contains(&format!("{name}{{service=\"budget\"}} 1")))
}

/// Two replicas over this Redis admit a limit once, share answers, and go on so after `change`.
async fn share(name: &str, url: &str, change: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let policy = policy(folder.path());
    let arguments = ["--policy", &policy, "--redis", url, "--shared-as", name];
    let replicas = [Served::start("budget", &arguments).await, Served::start("budget", &arguments).await];
    for served in &replicas {
        until("all is shared", || shares(served)).await;
    }
    assert_eq!(admitted(&replicas[0]).await, 10, "{name}");
    assert_eq!(admitted(&replicas[1]).await, 2, "{name}: one bucket for both");
    assert!(!was_cached(&replicas[0]).await, "{name}");
    until("the other one has it too", || was_cached(&replicas[1])).await;
    let forget = format!("http://127.0.0.1:{}/api/v1/cache/invalidate", replicas[0].port);
    let forgotten = replicas[0].http.post(forget).json(&json!({"all": true})).send().await.unwrap();
    assert_eq!(forgotten.status(), 200);
    assert!(!was_cached(&replicas[1]).await, "{name}: what one forgets both do");

    change();
    for served in &replicas {
        until("all is shared again", || shares(served)).await;
    }
    let admitted = admitted(&replicas[0]).await;
    assert!(
        admitted <= 6,
        "{name}: what was used is still used, and half of the limit may go while it moves"
    );
    for served in replicas {
        assert_eq!(served.stop(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_through_the_node_of_a_cluster_that_has_their_keys_also_when_it_becomes_another() {
    let cluster = RedisCluster::start();
    let url = cluster.url();
    // A name by which limits and answers are on different servers.
    share("of-a-cluster", &url, || {
        cluster.hand_over("{phase6:2:limit:of-a-cluster}");
        cluster.hand_over("{phase6:1:cache:of-a-cluster}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_through_the_master_that_sentinels_name_also_when_it_becomes_another() {
    let mut redis = RedisSentinels::start();
    let url = redis.url();
    share("under-sentinels", &url, || {
        redis.kill_master();
        redis.fail_over();
    })
    .await;
}
