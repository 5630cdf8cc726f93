//! Responses that one replica stores and another one serves.

use http::Method;
use phase6_redis::cmd;

use crate::replica::{Origin, Replica, connect, unique_prefix};

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_replica_serves_the_response_of_another_with_its_age() {
    let (prefix, origin) = (unique_prefix("second"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    assert_eq!(first.get("/a").await, "1");
    first.wait_for_writes(1).await;
    let second = Replica::start(&prefix, &origin).await;
    let received = second.send(Method::GET, "/a", "").await;
    assert_eq!(received.body, "1");
    assert!(
        received.cache_status.contains("hit") && received.cache_status.contains("second-level"),
        "{received:?}"
    );
    assert_eq!(
        *second.restored_label.0.lock().unwrap(),
        "GET /a",
        "restored although this replica never called its handler"
    );
    let received = second.send(Method::GET, "/a", "").await;
    assert!(
        received.body == "1" && !received.cache_status.contains("second-level"),
        "from memory now: {received:?}"
    );
    assert_eq!((origin.calls(), second.cache.stats().promoted), (1, 1));
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_varying_response_is_shared_among_requests_with_the_same_headers() {
    let (prefix, origin) = (unique_prefix("vary"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    assert_eq!(first.get_in("de", "/vary").await, "1");
    first.wait_for_writes(1).await;
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get_in("de", "/vary").await, "1");
    assert_eq!(second.get_in("fr", "/vary").await, "2");
    assert_eq!(second.get_in("de", "/vary").await, "1", "both variants are in memory");
    second.wait_for_writes(1).await;
    let third = Replica::start(&prefix, &origin).await;
    assert_eq!(third.get_in("fr", "/vary").await, "2", "the newest variant is in Redis");
    assert_eq!(third.get_in("de", "/vary").await, "3");
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_large_response_is_compressed_in_redis_and_restored_unchanged() {
    let (prefix, origin) = (unique_prefix("large"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    let large = first.get("/large").await;
    first.wait_for_writes(1).await;
    let redis = connect(&prefix);
    let keys: Vec<String> = redis.command(cmd("KEYS").arg(redis.key("response:*"))).await.unwrap();
    let stored: usize = redis.command(cmd("STRLEN").arg(&keys[0])).await.unwrap();
    assert!(large.len() > 100_000 && stored < 2_000, "{stored} of {}", large.len());
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get("/large").await, large);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn tenants_never_see_each_others_responses() {
    let (prefix, origin) = (unique_prefix("tenants"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    let second = Replica::start(&prefix, &origin).await;
    let mut bodies = Vec::new();
    for tenant in ["", "alice", "bob"] {
        bodies.push(first.send(Method::GET, "/a", tenant).await.body);
    }
    assert_eq!(bodies, ["1", "2", "3"]);
    first.wait_for_writes(1).await;
    for (tenant, own) in ["", "alice", "bob"].into_iter().zip(&bodies) {
        let body = second.send(Method::GET, "/a", tenant).await.body;
        assert!(body == *own || body.parse::<u64>().unwrap() > 3, "{tenant:?} received {body}");
    }
}
