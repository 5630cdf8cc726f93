//! What is kept, for whom and for how long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;

use crate::rig::{rig, until};

#[tokio::test]
async fn cache_set_get_works() {
    let rig = rig();
    let first = rig.get("/a").await;
    assert_eq!((first.body.as_str(), first.header("cache-status")), ("1 /a", "test; fwd=uri-miss; stored"));
    rig.pass(3);
    let second = rig.get("/a").await;
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
    let rig = rig();
    rig.get("/a").await;
    rig.pass(11);
    let second = rig.get("/a").await;
    assert_eq!((second.body.as_str(), second.header("cache-status")), ("2 /a", "test; fwd=stale; stored"));
}

#[tokio::test]
async fn a_shorter_ttl_acts_on_entries_already_stored() {
    let rig = rig();
    rig.get("/a").await;
    rig.pass(3);
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(2));
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn without_terms_or_with_all_of_them_zero_nothing_is_cached() {
    let rig = rig();
    rig.set_terms(|terms| terms.ttl = Duration::ZERO);
    rig.get("/a").await;
    let second = rig.get("/a").await;
    assert_eq!((second.body.as_str(), second.header("cache-status")), ("2 /a", ""));
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(10));
    rig.get("/a").await;
    assert_eq!(rig.get("/a").await.body, "3 /a", "a raised TTL acts at once");
}

#[tokio::test]
async fn cache_stats_track_hits_and_misses() {
    let rig = rig();
    for uri in ["/a", "/a", "/a", "/b"] {
        rig.get(uri).await;
    }
    let stats = rig.cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.writes, stats.entries), (2, 2, 2, 2));
    assert!((stats.hit_rate - 0.5).abs() < f64::EPSILON);
}

#[tokio::test]
async fn tenants_never_see_each_other_s_answers() {
    let rig = rig();
    rig.reply(200, &[("cache-control", "public")]);
    assert_eq!(rig.get_as("red", "/a").await.body, "1 red/a");
    assert_eq!(rig.get_as("blue", "/a").await.body, "2 blue/a");
    assert_eq!(rig.get("/a").await.body, "3 /a");
    assert_eq!(rig.get_as("red", "/a").await.body, "1 red/a");
}

/// The original mapped `hello world?` and `hello world>` to one file and served one for the other.
#[tokio::test]
async fn keys_that_look_alike_are_kept_apart() {
    let rig = rig();
    for uri in ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b"] {
        assert_eq!(rig.get(uri).await.body.split(' ').nth(1).unwrap(), uri);
    }
    for uri in ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b"] {
        assert_eq!(rig.get(uri).await.body.split(' ').nth(1).unwrap(), uri, "from the cache");
    }
    assert_eq!(rig.asked(), 6);
}

#[tokio::test]
async fn a_stale_answer_is_served_at_once_while_one_fetch_renews_it() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_while_revalidate = Duration::from_secs(30));
    rig.get("/a").await;
    rig.pass(12);
    let stale = rig.get("/a").await;
    assert_eq!(stale.body, "1 /a");
    assert!(
        stale.header("cache-status").contains("stale-while-revalidate"),
        "{}",
        stale.header("cache-status")
    );
    until("it is renewed", || rig.cache.stats().writes == 2).await;
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_a_failed_one() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_if_error = Duration::from_mins(1));
    rig.get("/a").await;
    rig.pass(20);
    rig.reply(503, &[]);
    let got = rig.get("/a").await;
    assert_eq!((got.status, got.body.as_str()), (200, "1 /a"));
    assert_eq!(got.header("cache-status"), "test; hit; detail=stale-if-error");
    rig.pass(60);
    assert_eq!(rig.get("/a").await.status, 503, "not older than allowed");
}

#[tokio::test]
async fn every_request_is_counted_once() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_if_error = Duration::from_mins(10));
    rig.get("/a").await;
    rig.get("/a").await;
    rig.pass(20);
    rig.reply(503, &[]);
    rig.get("/a").await;
    let stats = rig.cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.stale_hits, stats.joined), (1, 1, 1, 0));
}

#[tokio::test]
async fn what_is_not_there_is_believed_for_five_seconds() {
    let rig = rig();
    rig.reply(404, &[]);
    rig.get("/a").await;
    rig.pass(4);
    assert_eq!(rig.get("/a").await.body, "1 /a");
    rig.pass(2);
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_hit_gives_the_request_its_label_again() {
    let rig = rig();
    rig.get("/a").await;
    let seen = Arc::new(AtomicUsize::new(0));
    let mut request = rig.request(Method::GET, "/a");
    request.extensions_mut().insert(Arc::clone(&seen));
    rig.send(request).await;
    assert_eq!(seen.load(Ordering::Relaxed), 7);
}

#[tokio::test]
async fn entries_beyond_the_maximum_leave() {
    let rig = rig();
    rig.set_terms(|terms| terms.max_entries = 20);
    for i in 0..200 {
        rig.get(&format!("/{i}")).await;
    }
    let entries = rig.cache.stats().entries;
    assert!((1..=20).contains(&entries), "{entries}");
}

#[tokio::test]
async fn beyond_the_maximum_an_answer_in_use_stays_and_one_asked_for_once_goes() {
    let rig = rig();
    rig.set_terms(|terms| terms.max_entries = 20);
    for i in 0..40 {
        rig.get(&format!("/before/{i}")).await;
    }
    let in_use = rig.get("/in-use").await.body;
    for i in 0..200 {
        assert_eq!(rig.get("/in-use").await.body, in_use, "after {i} others");
        rig.get(&format!("/{i}")).await;
    }
    assert_eq!(rig.asked(), 241, "everything but /in-use once");
    rig.get("/100").await;
    assert_eq!(rig.asked(), 242, "/100 is fetched anew");
}
