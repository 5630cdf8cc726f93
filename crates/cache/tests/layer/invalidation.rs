//! Invalidation on demand and by unsafe requests, alone and during a fetch.

use std::{sync::Arc, time::Duration};

use http::Method;
use phase6_cache::Invalidation;

use crate::harness::{Harness, wait_until};

#[tokio::test]
async fn cache_delete_works_by_path_tag_and_prefix() {
    let harness = Harness::default();
    for (uri, tag) in [("/a/1?x", "red"), ("/a/2", "blue"), ("/ab", "red"), ("/a", "none")] {
        harness.set_response(200, &[("surrogate-key", tag)]);
        harness.get(uri).await;
    }
    assert_eq!(harness.cache.invalidate(Invalidation::Tag("red".into())), 2);
    assert_eq!(harness.cache.invalidate(Invalidation::Prefix("/a".into())), 2);
    assert_eq!(harness.cache.stats().entries, 0);
    harness.get("/a/1?x").await;
    assert_eq!(harness.cache.invalidate(Invalidation::Path("/a/1".into())), 1);
    assert_eq!(harness.cache.invalidate(Invalidation::All), 0);
}

/// In the original system, two keys that depended on each other invalidated each other without end.
#[tokio::test]
async fn responses_tagged_with_each_others_path_are_invalidated_separately() {
    let harness = Harness::default();
    for (uri, tag) in [("/a", "/b"), ("/b", "/a")] {
        harness.set_response(200, &[("surrogate-key", tag)]);
        harness.get(uri).await;
    }
    assert_eq!(harness.cache.invalidate(Invalidation::Tag("/a".into())), 1);
    assert_eq!(harness.get("/a").await.body, "1 /a");
    assert_eq!(harness.get("/b").await.body, "3 /b");
}

/// In the original system, an invalidation could be stored as a cached null, and a fetch in progress restored
/// the old value.
#[tokio::test]
async fn an_invalidation_that_races_a_fetch_wins() {
    let harness = Arc::new(Harness::default());
    let gate = harness.origin.gate.write().await;
    let caller = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.get("/a").await.body }
    });
    wait_until("the origin is called", || harness.calls() == 1).await;
    harness.cache.invalidate(Invalidation::Path("/a".into()));
    drop(gate);
    assert_eq!(caller.await.unwrap(), "1 /a", "the earlier request still gets its response");
    assert_eq!(harness.get("/a").await.body, "2 /a");
}

/// A client must not see the state from before its own change.
#[tokio::test]
async fn a_request_after_an_invalidation_does_not_get_an_earlier_response() {
    let harness = Arc::new(Harness::default());
    let gate = harness.origin.gate.write().await;
    let get = |harness: &Arc<Harness>| {
        let harness = Arc::clone(harness);
        tokio::spawn(async move { harness.get("/a").await.body })
    };
    let before = get(&harness);
    wait_until("the origin is called", || harness.calls() == 1).await;
    harness.cache.invalidate(Invalidation::Path("/a".into()));
    let after = get(&harness);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    drop(gate);
    assert_eq!((before.await.unwrap(), after.await.unwrap()), ("1 /a".into(), "2 /a".into()));
}

/// Each of the waiting requests once called the origin.
#[tokio::test]
async fn an_invalidation_during_a_fetch_costs_one_more_fetch_for_any_number_of_requests() {
    let harness = Arc::new(Harness::default());
    let gate = harness.origin.gate.write().await;
    let get = |harness: &Arc<Harness>| {
        let harness = Arc::clone(harness);
        tokio::spawn(async move { harness.get("/a").await.body })
    };
    let mut callers: Vec<_> = (0..100).map(|_| get(&harness)).collect();
    wait_until("the origin is called", || harness.calls() == 1).await;
    for _ in 0..3 {
        harness.cache.invalidate(Invalidation::Path("/a".into()));
        callers.extend((0..100).map(|_| get(&harness)));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    drop(gate);
    let mut bodies = Vec::new();
    for caller in callers {
        bodies.push(caller.await.unwrap());
    }
    assert_eq!(harness.calls(), 2);
    assert_eq!(bodies.iter().filter(|body| *body == "1 /a").count(), 1, "the request that began the fetch");
    assert!(bodies[100..].iter().all(|body| body == "2 /a"), "{bodies:?}");
}

#[tokio::test]
async fn a_successful_unsafe_request_invalidates_its_target() {
    let harness = Harness::default();
    harness.get("/a?x=1").await;
    harness.send(harness.request(Method::POST, "/a")).await;
    assert_eq!(harness.get("/a?x=1").await.body, "3 /a?x=1");
    harness.set_response(400, &[]);
    harness.send(harness.request(Method::PUT, "/a")).await;
    assert_eq!(harness.get("/a?x=1").await.body, "3 /a?x=1", "a refused request changed nothing");
}

/// A disconnect once dropped the invalidation.
#[tokio::test]
async fn an_unsafe_request_whose_client_disconnects_invalidates_its_target() {
    let harness = Arc::new(Harness::default());
    harness.get("/a").await;
    let gate = harness.origin.gate.write().await;
    let client = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.send(harness.request(Method::POST, "/a")).await.status }
    });
    wait_until("the origin is called", || harness.calls() == 2).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    drop(gate);
    assert_eq!(harness.get("/a").await.body, "3 /a");
}

/// Entries stored before once came back when the TTL was raised again.
#[tokio::test]
async fn an_unsafe_request_invalidates_while_caching_is_off() {
    let harness = Harness::default();
    harness.get("/a").await;
    harness.set_policy(|policy| policy.ttl = Duration::ZERO);
    harness.send(harness.request(Method::POST, "/a")).await;
    harness.set_policy(|policy| policy.ttl = Duration::from_secs(10));
    assert_eq!(harness.get("/a").await.body, "3 /a");
}

#[tokio::test]
async fn tags_on_all_lines_count_and_a_response_with_too_many_is_not_stored() {
    let harness = Harness::default();
    harness.set_response(200, &[("surrogate-key", "red"), ("surrogate-key", "blue")]);
    harness.get("/a").await;
    assert_eq!(harness.cache.invalidate(Invalidation::Tag("blue".into())), 1);
    let many: &'static str = Box::leak("t ".repeat(40).into_boxed_str());
    harness.set_response(200, &[("surrogate-key", many)]);
    harness.get("/b").await;
    assert_eq!(harness.cache.stats().entries, 0, "it could not be invalidated by its last tag");
}

#[tokio::test]
async fn an_unsafe_request_invalidates_its_target_in_any_encoding() {
    let harness = Harness::default();
    harness.get("/%61").await;
    harness.send(harness.request(Method::DELETE, "/%61")).await;
    assert_eq!(harness.get("/a").await.body, "3 /a");
}
