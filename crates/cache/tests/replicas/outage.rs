//! A replica without Redis.

use std::time::{Duration, Instant};

use phase6_redis::Redis;

use crate::replica::{Origin, Replica, wait_until};

#[tokio::test]
async fn without_redis_a_response_is_cached_for_one_second() {
    let redis = Redis::new(&"redis://127.0.0.1:1".parse().unwrap(), "x").unwrap();
    let replica = Replica::new(redis, &Origin::default());
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(replica.get("/a").await, "1");
    }
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    wait_until("the response is fetched again", || async { replica.get("/a").await == "2" }).await;
    assert!(started.elapsed() > Duration::from_millis(850), "{:?}", started.elapsed());
    assert!(!replica.cache.stats().second_level.unwrap().in_sync);
}
