//! Invalidations that reach every replica.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use phase6_cache::{Invalidation, Level};
use phase6_redis::cmd;

use crate::replica::{Origin, Replica, connect, connect_through_gate, unique_prefix, wait_until};

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn an_invalidation_by_one_replica_reaches_all_at_once() {
    let (prefix, origin) = (unique_prefix("invalidate"), Origin::default());
    let replicas = [Replica::start(&prefix, &origin).await, Replica::start(&prefix, &origin).await];
    for (turn, invalidation) in [
        Invalidation::Path("/a/b".into()),
        Invalidation::Prefix("/a".into()),
        Invalidation::Tag("numbers".into()),
        Invalidation::All,
    ]
    .into_iter()
    .enumerate()
    {
        for replica in &replicas {
            replica.get("/a/b?c").await;
            replica.get("/else").await;
        }
        let calls_before = origin.calls();
        let invalidating = &replicas[turn % 2];
        invalidating.cache.invalidate(invalidation.clone());
        invalidating.cache.wait_until_published().await;
        // Covers Redis, and a memory that has not been invalidated yet.
        let other = &replicas[1 - turn % 2];
        wait_until("the other replica calls the origin", || async {
            other.get("/a/b?c").await > calls_before.to_string()
        })
        .await;
        assert!(origin.calls() > calls_before, "{invalidation:?}");
        other.get("/else").await;
        let matches_both = matches!(invalidation, Invalidation::Tag(_) | Invalidation::All);
        assert_eq!(
            origin.calls() == calls_before + 2,
            matches_both,
            "{invalidation:?}: {} after {calls_before}",
            origin.calls()
        );
    }
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn an_unsafe_request_to_one_replica_invalidates_on_the_others() {
    let (prefix, origin) = (unique_prefix("post"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!((first.get("/a").await, second.level.is_in_sync()), ("1".to_owned(), true));
    first.wait_for_writes(1).await;
    assert_eq!(second.get("/a").await, "1");
    first.send(Method::POST, "/a", "").await;
    first.cache.wait_until_published().await;
    wait_until("the other replica calls the origin", || async { second.get("/a").await == "3" }).await;
    assert_eq!(first.get("/a").await, "3", "the response that the other replica has fetched since");
}

/// Responses are fetched, invalidated and read on all replicas at once. No replica ever serves a response
/// that was fetched before an invalidation which that replica has applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn an_invalidated_response_never_comes_back() {
    let (prefix, origin) = (unique_prefix("race"), Origin::default());
    let replicas = Replica::start_many(4, &prefix, &origin).await;
    let readers: Vec<_> = replicas
        .iter()
        .cloned()
        .map(|replica| {
            tokio::spawn(async move {
                loop {
                    replica.get("/a").await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let number = async |replica: &Replica| replica.get("/a").await.parse::<u64>().unwrap();
    for round in 0..200_usize {
        let invalidating = &replicas[round % 4];
        let calls_before = origin.calls();
        invalidating.cache.invalidate(Invalidation::Tag("numbers".into()));
        assert!(number(invalidating).await > calls_before, "an invalidation takes effect here at once");
        invalidating.cache.wait_until_published().await;
        for other in &replicas {
            let published = Instant::now();
            wait_until("the invalidation takes effect elsewhere", || async {
                number(other).await > calls_before
            })
            .await;
            // A replica that cannot read the log for a second serves entries no longer than that.
            let elapsed = published.elapsed();
            assert!(elapsed < Duration::from_millis(1_500), "after {elapsed:?}");
            for _ in 0..3 {
                assert!(number(other).await > calls_before, "the invalidated response came back");
            }
        }
    }
    for reader in readers {
        reader.abort();
    }
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_replica_that_starts_later_knows_of_earlier_invalidations() {
    let (prefix, origin) = (unique_prefix("later"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    first.get("/a").await;
    first.get("/b").await;
    first.wait_for_writes(2).await;
    first.cache.invalidate(Invalidation::Path("/a".into()));
    first.cache.wait_until_published().await;
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get("/b").await, "2", "/b was not invalidated");
    assert_eq!(second.get("/a").await, "3");
}

/// A response stored in memory before the log was read was once served for its whole lifetime.
#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_response_stored_before_the_log_was_read_is_dropped() {
    let (prefix, origin) = (unique_prefix("early"), Origin::default());
    let other = Replica::start(&prefix, &origin).await;
    let (redis, open) = connect_through_gate(&prefix).await;
    let early = Replica::new(redis, &origin);
    assert_eq!(early.get("/a").await, "1");
    other.cache.invalidate(Invalidation::Path("/a".into()));
    other.cache.wait_until_published().await;
    open.send(()).unwrap();
    wait_until("the replica is in sync", || async { early.level.is_in_sync() }).await;
    assert_eq!(early.get("/a").await, "2");
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_response_is_not_trusted_after_redis_has_lost_the_log() {
    let (prefix, origin) = (unique_prefix("lost"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    first.get("/a").await;
    first.wait_for_writes(1).await;
    // The log is lost while the response stays.
    let redis = connect(&prefix);
    redis.command::<i64>(cmd("DEL").arg(redis.key("log"))).await.unwrap();
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get("/a").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_response_invalidated_during_its_fetch_is_fetched_once_more_for_all_replicas() {
    // Repeated, because a machine so busy that Redis seems unreachable proves nothing.
    for _ in 0..3 {
        let origin = Origin::with_delay(Duration::from_millis(400));
        let replicas = Replica::start_many(10, &unique_prefix("lost"), &origin).await;
        let clients = replicas.iter().flat_map(|replica| (0..10).map(move |_| Arc::clone(replica)));
        let responses: Vec<_> =
            clients.map(|replica| tokio::spawn(async move { replica.get("/cold").await })).collect();
        wait_until("the origin is called", || async { origin.calls() == 1 }).await;
        replicas[3].cache.invalidate(Invalidation::Path("/cold".into()));
        let mut bodies = Vec::new();
        for response in responses {
            bodies.push(response.await.unwrap());
        }
        if replicas.iter().all(|replica| replica.level.stats().errors == 0) {
            assert_eq!(origin.calls(), 2, "{bodies:?}");
            return;
        }
    }
    panic!("Redis was unreachable in every attempt");
}
