//! Storing and serving responses: for which tenant, for how long, and how many.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;

use crate::harness::{Harness, wait_until};

#[tokio::test]
async fn cache_set_get_works() {
    let harness = Harness::default();
    let first = harness.get("/a").await;
    assert_eq!((first.body.as_str(), first.header("cache-status")), ("1 /a", "test; fwd=uri-miss; stored"));
    harness.advance(3);
    let second = harness.get("/a").await;
    assert_eq!(second.body, "1 /a");
    assert_eq!(second.header("age"), "3");
    assert!(
        second.header("cache-status").starts_with("test; hit; ttl="),
        "{}",
        second.header("cache-status")
    );
}

#[tokio::test]
async fn a_stale_entry_is_fetched_again() {
    let harness = Harness::default();
    harness.get("/a").await;
    harness.advance(11);
    let second = harness.get("/a").await;
    assert_eq!((second.body.as_str(), second.header("cache-status")), ("2 /a", "test; fwd=stale; stored"));
}

#[tokio::test]
async fn a_shorter_ttl_applies_to_stored_entries() {
    let harness = Harness::default();
    harness.get("/a").await;
    harness.advance(3);
    harness.set_policy(|policy| policy.ttl = Duration::from_secs(2));
    assert_eq!(harness.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn nothing_is_cached_under_a_policy_of_zero_times() {
    let harness = Harness::default();
    harness.set_policy(|policy| policy.ttl = Duration::ZERO);
    harness.get("/a").await;
    let second = harness.get("/a").await;
    assert_eq!((second.body.as_str(), second.header("cache-status")), ("2 /a", ""));
    harness.set_policy(|policy| policy.ttl = Duration::from_secs(10));
    harness.get("/a").await;
    assert_eq!(harness.get("/a").await.body, "3 /a", "a raised TTL takes effect at once");
}

#[tokio::test]
async fn cache_stats_track_hits_and_misses() {
    let harness = Harness::default();
    for uri in ["/a", "/a", "/a", "/b"] {
        harness.get(uri).await;
    }
    let stats = harness.cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.writes, stats.entries), (2, 2, 2, 2));
    assert!((stats.hit_rate - 0.5).abs() < f64::EPSILON);
}

#[tokio::test]
async fn tenants_never_see_each_others_responses() {
    let harness = Harness::default();
    harness.set_response(200, &[("cache-control", "public")]);
    assert_eq!(harness.get_as("red", "/a").await.body, "1 red/a");
    assert_eq!(harness.get_as("blue", "/a").await.body, "2 blue/a");
    assert_eq!(harness.get("/a").await.body, "3 /a");
    assert_eq!(harness.get_as("red", "/a").await.body, "1 red/a");
}

/// The original system mapped `hello world?` and `hello world>` to one file, and served one in place
/// of the other.
#[tokio::test]
async fn similar_keys_stay_distinct() {
    let harness = Harness::default();
    for uri in ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b"] {
        assert_eq!(harness.get(uri).await.body.split(' ').nth(1).unwrap(), uri);
    }
    for uri in ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b"] {
        assert_eq!(harness.get(uri).await.body.split(' ').nth(1).unwrap(), uri, "from the cache");
    }
    assert_eq!(harness.calls(), 6);
}

#[tokio::test]
async fn a_stale_response_is_served_at_once_and_refreshed_in_the_background() {
    let harness = Harness::default();
    harness.set_policy(|policy| policy.stale_while_revalidate = Duration::from_secs(30));
    harness.get("/a").await;
    harness.advance(12);
    let stale = harness.get("/a").await;
    assert_eq!(stale.body, "1 /a");
    assert!(
        stale.header("cache-status").contains("stale-while-revalidate"),
        "{}",
        stale.header("cache-status")
    );
    wait_until("the response has been refreshed", || harness.cache.stats().writes == 2).await;
    assert_eq!(harness.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_stale_response_replaces_a_failure() {
    let harness = Harness::default();
    harness.set_policy(|policy| policy.stale_if_error = Duration::from_mins(1));
    harness.get("/a").await;
    harness.advance(20);
    harness.set_response(503, &[]);
    let received = harness.get("/a").await;
    assert_eq!((received.status, received.body.as_str()), (200, "1 /a"));
    assert_eq!(received.header("cache-status"), "test; hit; detail=stale-if-error");
    harness.advance(60);
    assert_eq!(harness.get("/a").await.status, 503, "not older than allowed");
}

#[tokio::test]
async fn every_request_is_counted_once() {
    let harness = Harness::default();
    harness.set_policy(|policy| policy.stale_if_error = Duration::from_mins(10));
    harness.get("/a").await;
    harness.get("/a").await;
    harness.advance(20);
    harness.set_response(503, &[]);
    harness.get("/a").await;
    let stats = harness.cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.stale_hits, stats.joined), (1, 1, 1, 0));
}

#[tokio::test]
async fn a_negative_response_is_served_for_five_seconds() {
    let harness = Harness::default();
    harness.set_response(404, &[]);
    harness.get("/a").await;
    harness.advance(4);
    assert_eq!(harness.get("/a").await.body, "1 /a");
    harness.advance(2);
    assert_eq!(harness.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_hit_restores_the_label_of_the_request() {
    let harness = Harness::default();
    harness.get("/a").await;
    let restored = Arc::new(AtomicUsize::new(0));
    let mut request = harness.request(Method::GET, "/a");
    request.extensions_mut().insert(Arc::clone(&restored));
    harness.send(request).await;
    assert_eq!(restored.load(Ordering::Relaxed), 7);
}

#[tokio::test]
async fn entries_beyond_the_maximum_are_evicted() {
    let harness = Harness::default();
    harness.set_policy(|policy| policy.max_entries = 20);
    for i in 0..200 {
        harness.get(&format!("/{i}")).await;
    }
    let entries = harness.cache.stats().entries;
    assert!((1..=20).contains(&entries), "{entries}");
}

#[tokio::test]
async fn eviction_keeps_a_response_in_use_and_drops_one_requested_once() {
    let harness = Harness::default();
    harness.set_policy(|policy| policy.max_entries = 20);
    for i in 0..40 {
        harness.get(&format!("/before/{i}")).await;
    }
    let in_use = harness.get("/in-use").await.body;
    for i in 0..200 {
        assert_eq!(harness.get("/in-use").await.body, in_use, "after {i} others");
        harness.get(&format!("/{i}")).await;
    }
    assert_eq!(harness.calls(), 241, "each target once, including /in-use");
    harness.get("/100").await;
    assert_eq!(harness.calls(), 242, "/100 was evicted");
}
