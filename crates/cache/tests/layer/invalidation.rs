//! What is forgotten on demand or by an unsafe request, and what a fetch on its way has to do with it.

use std::{sync::Arc, time::Duration};

use http::Method;
use phase6_cache::Invalidation;

use crate::rig::{Rig, rig, until};

#[tokio::test]
async fn cache_delete_works_by_path_tag_and_prefix() {
    let rig = rig();
    for (uri, tag) in [("/a/1?x", "red"), ("/a/2", "blue"), ("/ab", "red"), ("/a", "none")] {
        rig.reply(200, &[("surrogate-key", tag)]);
        rig.get(uri).await;
    }
    assert_eq!(rig.cache.invalidate(Invalidation::Tag("red".into())), 2);
    assert_eq!(rig.cache.invalidate(Invalidation::Prefix("/a".into())), 2);
    assert_eq!(rig.cache.stats().entries, 0);
    rig.get("/a/1?x").await;
    assert_eq!(rig.cache.invalidate(Invalidation::Path("/a/1".into())), 1);
    assert_eq!(rig.cache.invalidate(Invalidation::All), 0);
}

/// In the original two keys that depended on each other were invalidated in a circle.
#[tokio::test]
async fn answers_tagged_with_each_other_s_name_do_not_drag_each_other_along() {
    let rig = rig();
    for (uri, tag) in [("/a", "/b"), ("/b", "/a")] {
        rig.reply(200, &[("surrogate-key", tag)]);
        rig.get(uri).await;
    }
    assert_eq!(rig.cache.invalidate(Invalidation::Tag("/a".into())), 1);
    assert_eq!(rig.get("/a").await.body, "1 /a");
    assert_eq!(rig.get("/b").await.body, "3 /b");
}

/// In the original an invalidation could be stored as a cached null, and a fetch that was under
/// way brought the old value back.
#[tokio::test]
async fn an_invalidation_that_races_a_fetch_wins() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let caller = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.get("/a").await.body }
    });
    until("the origin is asked", || rig.asked() == 1).await;
    rig.cache.invalidate(Invalidation::Path("/a".into()));
    drop(closed);
    assert_eq!(caller.await.unwrap(), "1 /a", "who asked before still gets an answer");
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

/// A client would else be shown the state from before its own change.
#[tokio::test]
async fn who_asks_after_an_invalidation_is_not_given_what_was_made_before_it() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let ask = |rig: &Arc<Rig>| {
        let rig = Arc::clone(rig);
        tokio::spawn(async move { rig.get("/a").await.body })
    };
    let before = ask(&rig);
    until("the origin is asked", || rig.asked() == 1).await;
    rig.cache.invalidate(Invalidation::Path("/a".into()));
    let after = ask(&rig);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    drop(closed);
    assert_eq!((before.await.unwrap(), after.await.unwrap()), ("1 /a".into(), "2 /a".into()));
}

/// Each of them asked the origin.
#[tokio::test]
async fn an_invalidation_during_a_fetch_costs_one_more_however_many_wait() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let ask = |rig: &Arc<Rig>| {
        let rig = Arc::clone(rig);
        tokio::spawn(async move { rig.get("/a").await.body })
    };
    let mut callers: Vec<_> = (0..100).map(|_| ask(&rig)).collect();
    until("the origin is asked", || rig.asked() == 1).await;
    for _ in 0..3 {
        rig.cache.invalidate(Invalidation::Path("/a".into()));
        callers.extend((0..100).map(|_| ask(&rig)));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    drop(closed);
    let mut bodies = Vec::new();
    for caller in callers {
        bodies.push(caller.await.unwrap());
    }
    assert_eq!(rig.asked(), 2);
    assert_eq!(bodies.iter().filter(|body| *body == "1 /a").count(), 1, "to whom it was made for");
    assert!(bodies[100..].iter().all(|body| body == "2 /a"), "{bodies:?}");
}

#[tokio::test]
async fn a_successful_unsafe_request_makes_its_target_invalid() {
    let rig = rig();
    rig.get("/a?x=1").await;
    rig.send(rig.request(Method::POST, "/a")).await;
    assert_eq!(rig.get("/a?x=1").await.body, "3 /a?x=1");
    rig.reply(400, &[]);
    rig.send(rig.request(Method::PUT, "/a")).await;
    assert_eq!(rig.get("/a?x=1").await.body, "3 /a?x=1", "a refused one changed nothing");
}

/// A client that went away took the invalidation with it.
#[tokio::test]
async fn an_unsafe_request_whose_client_goes_away_may_have_done_its_work() {
    let rig = Arc::new(rig());
    rig.get("/a").await;
    let closed = rig.origin.gate.write().await;
    let client = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.send(rig.request(Method::POST, "/a")).await.status }
    });
    until("the origin is asked", || rig.asked() == 2).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    drop(closed);
    assert_eq!(rig.get("/a").await.body, "3 /a");
}

/// What was stored before came back when the TTL was raised again.
#[tokio::test]
async fn an_unsafe_request_counts_while_nothing_is_cached() {
    let rig = rig();
    rig.get("/a").await;
    rig.set_terms(|terms| terms.ttl = Duration::ZERO);
    rig.send(rig.request(Method::POST, "/a")).await;
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(10));
    assert_eq!(rig.get("/a").await.body, "3 /a");
}

#[tokio::test]
async fn tags_on_several_lines_all_count_and_an_answer_with_too_many_is_not_kept() {
    let rig = rig();
    rig.reply(200, &[("surrogate-key", "red"), ("surrogate-key", "blue")]);
    rig.get("/a").await;
    assert_eq!(rig.cache.invalidate(Invalidation::Tag("blue".into())), 1);
    let many: &'static str = Box::leak("t ".repeat(40).into_boxed_str());
    rig.reply(200, &[("surrogate-key", many)]);
    rig.get("/b").await;
    assert_eq!(rig.cache.stats().entries, 0, "it could not be forgotten by its last tag");
}

#[tokio::test]
async fn an_unsafe_request_finds_its_target_however_it_is_encoded() {
    let rig = rig();
    rig.get("/%61").await;
    rig.send(rig.request(Method::DELETE, "/%61")).await;
    assert_eq!(rig.get("/a").await.body, "3 /a");
}
