//! One fetch for all replicas that need the same response.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use phase6_cache::{Invalidation, Level};
use phase6_redis::cmd;

use crate::replica::{Origin, POLICY, Replica, connect, unique_prefix, wait_until};

/// Ten replicas with ten clients each request one missing response at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_missing_response_is_fetched_once_for_all_replicas() {
    let origin = Origin::with_delay(Duration::from_millis(200));
    let replicas = Replica::start_many(10, &unique_prefix("stampede"), &origin).await;
    let request_everywhere = async |uri: &'static str, expected: &str| {
        let started = Instant::now();
        let clients = replicas.iter().flat_map(|replica| (0..10).map(move |_| Arc::clone(replica)));
        let responses: Vec<_> =
            clients.map(|replica| tokio::spawn(async move { replica.get(uri).await })).collect();
        for response in responses {
            assert_eq!(response.await.unwrap(), expected);
        }
        started.elapsed()
    };
    let elapsed = request_everywhere("/cold", "1").await;
    assert_eq!(origin.calls(), 1, "in {elapsed:?}");
    replicas[3].cache.invalidate(Invalidation::Path("/cold".into()));
    replicas[3].cache.wait_until_published().await;
    for replica in &replicas {
        wait_until("every memory is empty", || async { replica.cache.stats().entries == 0 }).await;
    }
    request_everywhere("/cold", "2").await;
    assert_eq!(origin.calls(), 2, "an invalidated response is fetched once too");
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn an_unshareable_response_is_waited_for_once_and_then_fetched_by_each_replica() {
    let (prefix, origin) = (unique_prefix("alone"), Origin::with_delay(Duration::from_millis(50)));
    let replicas = [Replica::start(&prefix, &origin).await, Replica::start(&prefix, &origin).await];
    let [first, second] = &replicas;
    let (one, other) = tokio::join!(
        first.send(Method::GET, "/private", "alice"),
        second.send(Method::GET, "/private", "alice")
    );
    assert_ne!(one.body, other.body);
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn the_lock_of_a_dead_replica_expires_after_3_s() {
    let (prefix, origin) = (unique_prefix("dies"), Origin::default());
    let redis = connect(&prefix);
    // Sets a lock that no replica renews. Its name is taken from the key of the stored response.
    let probe = Replica::start(&prefix, &origin).await;
    probe.get("/a").await;
    probe.wait_for_writes(1).await;
    let keys: Vec<String> = redis.command(cmd("KEYS").arg(redis.key("response:*"))).await.unwrap();
    let lock = keys[0].replace(":response:", ":fill:");
    redis.command::<i64>(cmd("DEL").arg(&keys[0])).await.unwrap();
    redis.command::<()>(cmd("SET").arg(&lock).arg("somebody").arg("PX").arg(3_000)).await.unwrap();
    let other = Replica::start(&prefix, &origin).await;
    let started = Instant::now();
    assert_eq!(other.get("/a").await, "2");
    assert!((2_500..4_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_fetch_that_takes_longer_than_the_lock_ttl_is_not_repeated() {
    // Repeated, because on a machine so busy that Redis seems unreachable each replica fetches for itself.
    for _ in 0..3 {
        let (prefix, origin) = (unique_prefix("long"), Origin::with_delay(Duration::from_millis(4_500)));
        let replicas = [Replica::start(&prefix, &origin).await, Replica::start(&prefix, &origin).await];
        let (one, other) = tokio::join!(replicas[0].get("/long"), replicas[1].get("/long"));
        if replicas.iter().all(|replica| replica.level.stats().errors == 0) {
            assert_eq!((one, other, origin.calls()), ("1".to_owned(), "1".to_owned(), 1));
            // The waiting replica once counted its wait as part of the response's age.
            let [fetched, promoted] = replicas.each_ref().map(|replica| {
                let (uri, headers) = ("/long".parse().unwrap(), http::HeaderMap::new());
                replica.cache.get_fresh("", &uri, &headers, &POLICY).unwrap().fetch_started_at_ms
            });
            assert!(fetched.abs_diff(promoted) < 1_000, "{fetched} and {promoted}");
            return;
        }
    }
    panic!("Redis was unreachable in every attempt");
}
