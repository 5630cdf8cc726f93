//! Request and response headers that control the cache, and those that it sends (RFC 9111).

use std::{sync::Arc, time::Duration};

use http::Method;
use phase6_cache::Invalidation;

use crate::harness::{Harness, wait_until};

#[tokio::test]
async fn a_response_to_credentials_is_stored_only_with_an_explicit_directive() {
    let harness = Harness::default();
    harness.get_as("red", "/a").await;
    assert_eq!(harness.get_as("red", "/a").await.body, "2 red/a");
}

#[tokio::test]
async fn a_varying_response_is_stored_once_per_value() {
    let harness = Harness::default();
    harness.set_response(200, &[("vary", "Accept-Language")]);
    assert_eq!(harness.get_with("/a", "accept-language", "de").await.body, "1 /a");
    assert_eq!(harness.get_with("/a", "accept-language", "fr").await.body, "2 /a");
    assert_eq!(harness.get_with("/a", "accept-language", "de").await.body, "1 /a");
    assert_eq!(harness.get_with("/a", "accept-language", "fr").await.body, "2 /a");
    assert_eq!(harness.get("/a").await.body, "3 /a");
}

#[tokio::test]
async fn headers_of_the_fetching_request_are_not_stored() {
    let harness = Harness::default();
    harness.set_response(
        200,
        &[("x-request-id", "r1"), ("ratelimit", "x"), ("x-ratelimit-limit", "5"), ("x-other", "1")],
    );
    harness.get("/a").await;
    let hit = harness.get("/a").await;
    assert_eq!(hit.header("cache-status"), "test; hit; ttl=9");
    assert_eq!(
        (hit.header("x-request-id"), hit.header("ratelimit"), hit.header("x-ratelimit-limit")),
        ("", "", "")
    );
    assert_eq!(hit.header("x-other"), "1");
}

#[tokio::test]
async fn preconditions_do_not_apply_to_error_responses() {
    let harness = Harness::default();
    harness.set_response(404, &[]);
    assert_eq!(harness.get("/a").await.status, 404);
    assert_eq!(harness.get_with("/a", "if-none-match", "*").await.status, 404);
    harness.set_response(412, &[]);
    assert_eq!(
        harness.get_with("/b", "if-match", "\"x\"").await.status,
        412,
        "only the handler can evaluate the precondition"
    );
}

#[tokio::test]
async fn repeated_header_lines_are_compared_as_one_value() {
    let harness = Harness::default();
    harness.set_response(200, &[("vary", "accept")]);
    harness.get_with("/a", "accept", "text/html").await;
    let mut both = harness.request(Method::GET, "/a");
    for value in ["text/html", "application/json"] {
        both.headers_mut().append("accept", value.parse().unwrap());
    }
    assert_eq!(harness.send(both).await.body, "2 /a");
    assert_eq!(harness.get_with("/a", "accept", "text/html, application/json").await.body, "2 /a");
    assert_eq!(harness.get_with("/a", "accept", "text/html").await.body, "1 /a");
}

#[tokio::test]
async fn the_duration_of_a_fetch_counts_toward_the_age() {
    let harness = Arc::new(Harness::default());
    let gate = harness.origin.gate.write().await;
    let get = |harness: &Arc<Harness>| {
        let harness = Arc::clone(harness);
        tokio::spawn(async move { harness.get("/a").await })
    };
    let (first, second) = (get(&harness), get(&harness));
    wait_until("the origin is called", || harness.calls() == 1).await;
    harness.advance(8);
    drop(gate);
    assert_eq!((first.await.unwrap().header("age"), second.await.unwrap().body.as_str()), ("8", "1 /a"));
    harness.advance(3);
    assert_eq!(harness.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_no_store_request_neither_stores_nor_replaces_a_response() {
    let harness = Harness::default();
    harness.get_with("/a", "cache-control", "no-store").await;
    assert_eq!(harness.get("/a").await.body, "2 /a");
    assert_eq!(harness.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn only_if_cached_does_not_call_the_handler() {
    let harness = Harness::default();
    assert_eq!(harness.get_with("/a", "cache-control", "only-if-cached").await.status, 504);
    harness.get("/a").await;
    assert_eq!(harness.get_with("/a", "cache-control", "only-if-cached").await.status, 200);
    assert_eq!(harness.calls(), 1);
}

#[tokio::test]
async fn downstream_caches_get_the_lifetime_of_the_policy_and_the_tags() {
    let harness = Harness::default();
    for (sent, expected) in [
        ("", "max-age=0, s-maxage=10"),
        ("public", "public, max-age=0, s-maxage=10"),
        ("public, max-age=60", "public, max-age=10"),
        ("max-age=4", "max-age=4"),
        (
            "max-age=4, s-maxage=60, stale-if-error=60",
            "max-age=4, s-maxage=10, stale-if-error=0, must-revalidate",
        ),
    ] {
        let headers = [("cache-control", sent), ("surrogate-key", "red blue")];
        harness.set_response(200, &headers[usize::from(sent.is_empty())..]);
        harness.cache.invalidate(Invalidation::All);
        for received in [harness.get("/a").await, harness.get("/a").await] {
            assert_eq!(
                (received.header("cache-control"), received.header("surrogate-key")),
                (expected, "red blue")
            );
        }
    }
    harness.set_policy(|policy| policy.ttl = Duration::from_secs(2));
    let under_shorter_ttl = harness.get("/a").await;
    assert_eq!(under_shorter_ttl.header("cache-control"), "max-age=2, stale-if-error=0, must-revalidate");
    harness.set_response(404, &[]);
    harness.set_policy(|policy| policy.ttl = Duration::from_mins(1));
    assert_eq!(harness.get("/b").await.header("cache-control"), "max-age=0, s-maxage=5");
    harness.set_response(200, &[("cache-control", "no-store")]);
    assert_eq!(harness.get("/c").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_response_to_credentials_is_private_to_downstream_caches() {
    let harness = Harness::default();
    for (sent, expected) in [
        ("public, max-age=60", "private, max-age=10"),
        ("public, s-maxage=4", "private, max-age=0, must-revalidate"),
        ("max-age=60", "private, max-age=60"),
        ("public, private=\"x, y\", max-age=60", "private, max-age=60"),
        ("no-store", "private, no-store"),
    ] {
        harness.set_response(200, &[("cache-control", sent)]);
        harness.cache.invalidate(Invalidation::All);
        for received in [harness.get_as("red", "/a").await, harness.get_as("red", "/a").await] {
            assert_eq!(received.header("cache-control"), expected, "{sent}");
        }
    }
    harness.set_response(200, &[]);
    harness.set_policy(|policy| policy.ttl = Duration::ZERO);
    assert_eq!(
        harness.get_as("red", "/a").await.header("cache-control"),
        "private",
        "also while caching is off"
    );
}

#[tokio::test]
async fn if_none_match_with_the_stored_etag_returns_304() {
    let harness = Harness::default();
    harness.get("/a").await;
    let tag = harness.get("/a").await.header("etag").to_owned();
    let received = harness.get_with("/a", "if-none-match", &tag).await;
    assert_eq!((received.status, received.body.as_str(), received.header("etag")), (304, "", tag.as_str()));
    assert_eq!(harness.get_with("/a", "if-none-match", "\"other\"").await.status, 200);
}

#[tokio::test]
async fn a_stored_get_response_serves_head() {
    let harness = Harness::default();
    harness.get("/a").await;
    let received = harness.send(harness.request(Method::HEAD, "/a")).await;
    assert_eq!((received.status, received.body.as_str(), received.header("content-length")), (200, "", "4"));
    assert_eq!(harness.calls(), 1);
}
