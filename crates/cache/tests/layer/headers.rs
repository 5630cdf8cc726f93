//! What the headers of a request and of an answer mean to the cache, and what it says itself (RFC 9111).

use std::{sync::Arc, time::Duration};

use http::Method;
use phase6_cache::Invalidation;

use crate::rig::{Rig, rig, until};

#[tokio::test]
async fn an_answer_to_credentials_is_kept_only_when_it_says_so() {
    let rig = rig();
    rig.get_as("red", "/a").await;
    assert_eq!(rig.get_as("red", "/a").await.body, "2 red/a");
}

#[tokio::test]
async fn an_answer_that_varies_is_kept_for_each_value() {
    let rig = rig();
    rig.reply(200, &[("vary", "Accept-Language")]);
    assert_eq!(rig.get_with("/a", "accept-language", "de").await.body, "1 /a");
    assert_eq!(rig.get_with("/a", "accept-language", "fr").await.body, "2 /a");
    assert_eq!(rig.get_with("/a", "accept-language", "de").await.body, "1 /a");
    assert_eq!(rig.get_with("/a", "accept-language", "fr").await.body, "2 /a");
    assert_eq!(rig.get("/a").await.body, "3 /a");
}

#[tokio::test]
async fn headers_of_the_request_that_fetched_it_are_not_kept() {
    let rig = rig();
    rig.reply(
        200,
        &[("x-request-id", "r1"), ("ratelimit", "x"), ("x-ratelimit-limit", "5"), ("x-other", "1")],
    );
    rig.get("/a").await;
    let hit = rig.get("/a").await;
    assert_eq!(hit.header("cache-status"), "test; hit; ttl=9");
    assert_eq!(
        (hit.header("x-request-id"), hit.header("ratelimit"), hit.header("x-ratelimit-limit")),
        ("", "", "")
    );
    assert_eq!(hit.header("x-other"), "1");
}

#[tokio::test]
async fn a_condition_is_about_what_is_there() {
    let rig = rig();
    rig.reply(404, &[]);
    assert_eq!(rig.get("/a").await.status, 404);
    assert_eq!(rig.get_with("/a", "if-none-match", "*").await.status, 404);
    rig.reply(412, &[]);
    assert_eq!(rig.get_with("/b", "if-match", "\"x\"").await.status, 412, "only the handler can judge it");
}

#[tokio::test]
async fn a_header_on_several_lines_counts_whole() {
    let rig = rig();
    rig.reply(200, &[("vary", "accept")]);
    rig.get_with("/a", "accept", "text/html").await;
    let mut both = rig.request(Method::GET, "/a");
    for value in ["text/html", "application/json"] {
        both.headers_mut().append("accept", value.parse().unwrap());
    }
    assert_eq!(rig.send(both).await.body, "2 /a");
    assert_eq!(rig.get_with("/a", "accept", "text/html, application/json").await.body, "2 /a");
    assert_eq!(rig.get_with("/a", "accept", "text/html").await.body, "1 /a");
}

#[tokio::test]
async fn the_time_that_an_answer_takes_counts_as_its_age() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let ask = |rig: &Arc<Rig>| {
        let rig = Arc::clone(rig);
        tokio::spawn(async move { rig.get("/a").await })
    };
    let (first, second) = (ask(&rig), ask(&rig));
    until("the origin is asked", || rig.asked() == 1).await;
    rig.pass(8);
    drop(closed);
    assert_eq!((first.await.unwrap().header("age"), second.await.unwrap().body.as_str()), ("8", "1 /a"));
    rig.pass(3);
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_client_that_forbids_storing_neither_stores_nor_disturbs() {
    let rig = rig();
    rig.get_with("/a", "cache-control", "no-store").await;
    assert_eq!(rig.get("/a").await.body, "2 /a");
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn only_if_cached_does_not_ask_the_handler() {
    let rig = rig();
    assert_eq!(rig.get_with("/a", "cache-control", "only-if-cached").await.status, 504);
    rig.get("/a").await;
    assert_eq!(rig.get_with("/a", "cache-control", "only-if-cached").await.status, 200);
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn a_cache_in_front_is_told_no_longer_than_the_policy_and_by_which_names_to_forget() {
    let rig = rig();
    for (said, expected) in [
        ("", "max-age=0, s-maxage=10"),
        ("public", "public, max-age=0, s-maxage=10"),
        ("public, max-age=60", "public, max-age=10"),
        ("max-age=4", "max-age=4"),
        (
            "max-age=4, s-maxage=60, stale-if-error=60",
            "max-age=4, s-maxage=10, stale-if-error=0, must-revalidate",
        ),
    ] {
        let headers = [("cache-control", said), ("surrogate-key", "red blue")];
        rig.reply(200, &headers[usize::from(said.is_empty())..]);
        rig.cache.invalidate(Invalidation::All);
        for got in [rig.get("/a").await, rig.get("/a").await] {
            assert_eq!((got.header("cache-control"), got.header("surrogate-key")), (expected, "red blue"));
        }
    }
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(2));
    let retuned = rig.get("/a").await;
    assert_eq!(retuned.header("cache-control"), "max-age=2, stale-if-error=0, must-revalidate");
    rig.reply(404, &[]);
    rig.set_terms(|terms| terms.ttl = Duration::from_mins(1));
    assert_eq!(rig.get("/b").await.header("cache-control"), "max-age=0, s-maxage=5");
    rig.reply(200, &[("cache-control", "no-store")]);
    assert_eq!(rig.get("/c").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn what_a_caller_with_credentials_is_told_is_private_to_a_cache_in_front() {
    let rig = rig();
    for (said, expected) in [
        ("public, max-age=60", "private, max-age=10"),
        ("public, s-maxage=4", "private, max-age=0, must-revalidate"),
        ("max-age=60", "private, max-age=60"),
        ("public, private=\"x, y\", max-age=60", "private, max-age=60"),
        ("no-store", "private, no-store"),
    ] {
        rig.reply(200, &[("cache-control", said)]);
        rig.cache.invalidate(Invalidation::All);
        for got in [rig.get_as("red", "/a").await, rig.get_as("red", "/a").await] {
            assert_eq!(got.header("cache-control"), expected, "{said}");
        }
    }
    rig.reply(200, &[]);
    rig.set_terms(|terms| terms.ttl = Duration::ZERO);
    assert_eq!(
        rig.get_as("red", "/a").await.header("cache-control"),
        "private",
        "also where nothing is cached"
    );
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let rig = rig();
    rig.get("/a").await;
    let tag = rig.get("/a").await.header("etag").to_owned();
    let got = rig.get_with("/a", "if-none-match", &tag).await;
    assert_eq!((got.status, got.body.as_str(), got.header("etag")), (304, "", tag.as_str()));
    assert_eq!(rig.get_with("/a", "if-none-match", "\"other\"").await.status, 200);
}

#[tokio::test]
async fn a_head_is_answered_from_the_answer_to_a_get() {
    let rig = rig();
    rig.get("/a").await;
    let got = rig.send(rig.request(Method::HEAD, "/a")).await;
    assert_eq!((got.status, got.body.as_str(), got.header("content-length")), (200, "", "4"));
    assert_eq!(rig.asked(), 1);
}
