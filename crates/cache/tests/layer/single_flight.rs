//! One fetch for all who ask at once: who is told its answer, and who is not.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use phase6_cache::CacheLayer;
use tower::{Layer, ServiceExt, service_fn};

use crate::rig::{ASK, Body, Caller, rig, until};

#[tokio::test]
async fn many_who_ask_at_once_cause_one_fetch() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/a").await.body })
        })
        .collect();
    until("the origin is asked", || rig.asked() == 1).await;
    until("all wait", || rig.cache.stats().in_flight == 1).await;
    drop(closed);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "1 /a");
    }
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_the_answer_from_the_others() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let first = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.get("/a").await.body }
    });
    until("the origin is asked", || rig.asked() == 1).await;
    let second = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.get("/a").await.body }
    });
    tokio::task::yield_now().await;
    first.abort();
    drop(closed);
    assert_eq!(second.await.unwrap(), "1 /a");
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn a_failure_is_shared_with_those_who_wait_and_not_kept() {
    let rig = Arc::new(rig());
    rig.reply(503, &[]);
    let closed = rig.origin.gate.write().await;
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/a").await.status })
        })
        .collect();
    until("the origin is asked", || rig.asked() == 1).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    drop(closed);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 503);
    }
    assert_eq!(rig.asked(), 1);
    rig.reply(200, &[]);
    assert_eq!(rig.get("/a").await.status, 200);
}

#[tokio::test]
async fn callers_of_an_answer_that_cannot_be_shared_each_get_their_own() {
    let rig = Arc::new(rig());
    rig.reply(200, &[("cache-control", "private")]);
    let closed = rig.origin.gate.write().await;
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/a").await.body })
        })
        .collect();
    until("the origin is asked", || rig.asked() >= 1).await;
    drop(closed);
    let mut bodies = Vec::new();
    for caller in callers {
        bodies.push(caller.await.unwrap());
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 5);
}

#[tokio::test]
async fn a_refusal_does_not_cost_the_answer_that_may_stand_in_for_a_failure() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_if_error = Duration::from_mins(10));
    rig.get("/a").await;
    rig.pass(20);
    for status in [429, 503] {
        rig.reply(status, &[]);
        let expected = if status == 429 { 429 } else { 200 };
        assert_eq!(rig.get("/a").await.status, expected);
    }
}

#[tokio::test]
async fn what_one_caller_with_credentials_is_told_does_not_end_the_sharing_of_others() {
    let rig = rig();
    rig.get_as("ann", "/a").await;
    let mut refused = rig.request(Method::GET, "/b");
    refused.extensions_mut().insert(Caller(""));
    rig.send(refused).await;
    let asked = rig.asked();
    assert_eq!(rig.get("/b").await.header("cache-status"), "test; fwd=uri-miss; stored");
    assert_eq!((rig.get("/b").await.header("cache-status"), rig.asked()), ("test; hit; ttl=9", asked + 1));
}

#[tokio::test]
async fn a_failure_with_a_cookie_or_to_credentials_is_for_one_only() {
    for (headers, caller) in [(vec![("set-cookie", "a=1")], None), (vec![], Some("ann"))] {
        let rig = Arc::new(rig());
        rig.reply(500, &headers);
        let closed = rig.origin.gate.write().await;
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let rig = Arc::clone(&rig);
                tokio::spawn(async move {
                    match caller {
                        Some(caller) => rig.get_as(caller, "/a").await.status,
                        None => rig.get("/a").await.status,
                    }
                })
            })
            .collect();
        until("the origin is asked", || rig.asked() >= 1).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        drop(closed);
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 500);
        }
        assert_eq!(rig.asked(), 3);
    }
}

/// A body of five bytes that never come.
struct Stalled(Option<Bytes>);

impl From<Bytes> for Stalled {
    fn from(bytes: Bytes) -> Self {
        Self(Some(bytes))
    }
}

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) if !bytes.is_empty() => {
                self.0 = Some(Bytes::new());
                std::task::Poll::Ready(Some(Ok(http_body::Frame::data(bytes))))
            }
            Some(_) => std::task::Poll::Ready(None),
            None => std::task::Poll::Pending,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(5, |bytes| bytes.len() as u64))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_holds_nobody_for_ever() {
    let rig = rig();
    let inner = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Stalled(None))) });
    let service = CacheLayer::new(rig.cache.clone(), "test", ASK).layer(inner);
    let first = tokio::spawn(service.clone().oneshot(rig.request(Method::GET, "/a")));
    until("it is fetched", || rig.cache.stats().in_flight == 1).await;
    let second = tokio::spawn(service.oneshot(rig.request(Method::GET, "/a")));
    assert_eq!(first.await.unwrap().unwrap().status(), 504);
    assert_eq!(second.await.unwrap().unwrap().status(), 200, "it asks for itself");
    assert_eq!(rig.cache.stats().in_flight, 0);
}
