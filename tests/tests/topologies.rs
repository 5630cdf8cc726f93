//! Redis as it is run where it must not be lost: as a cluster, and under sentinels.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use phase6_tests::{RedisCluster, RedisSentinels, Served, phase6, until};
use serde_json::json;

const PATH: &str = "/api/v1/providers/policy";

fn policy(folder: &Path) -> String {
    let file = folder.join("policy.json");
    let document = json!({
        "ownerUid": "u", "revision": 1, "generation": 1, "hash": "h1", "publishedAt": "", "replicas": 2,
        "policy": {"cache": {"ttl": "60s"}, "rateLimit": {"capacity": 12, "refillPerSecond": 0.001}},
    });
    std::fs::write(&file, document.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// How many of ten requests are admitted, and whether the cache had the answer to the last one of them.
async fn ask(served: &Served) -> (usize, bool) {
    let (mut admitted, mut was_hit) = (0, false);
    for _ in 0..10 {
        let answer = served.http.get(format!("http://127.0.0.1:{}{PATH}", served.port)).send().await.unwrap();
        if answer.status() == 200 {
            admitted += 1;
            was_hit = answer.headers()["cache-status"].to_str().unwrap().contains("hit");
        } else {
            assert_eq!(answer.status(), 429);
        }
    }
    (admitted, was_hit)
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
    assert_eq!(ask(&replicas[0]).await, (10, true), "{name}");
    let (admitted, _) = ask(&replicas[1]).await;
    assert_eq!(admitted, 2, "{name}: one bucket for both");
    // From one to the other it takes no request to hear of it.
    let port = replicas[0].port.to_string();
    let (code, told, errors) = phase6(&["cache", "purge", "--all", "--base-port", &port, "--only", "budget"]);
    assert!(code == 0 || !errors.is_empty(), "{told}{errors}");

    change();
    for served in &replicas {
        until("all is shared again", || shares(served)).await;
    }
    let (admitted, _) = ask(&replicas[0]).await;
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
    share("in-a-cluster", &url, || {
        cluster.hand_over("{phase6:1:limit:in-a-cluster}");
        cluster.hand_over("{phase6:1:cache:in-a-cluster}");
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
