//! One fetch for concurrent requests, and the responses that they share.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use phase6_cache::HttpCacheLayer;
use tower::{Layer, ServiceExt, service_fn};

use crate::harness::{ACCESSORS, Body, Harness, Tenant, wait_until};

#[tokio::test]
async fn concurrent_requests_cause_one_fetch() {
    let harness = Arc::new(Harness::default());
    let gate = harness.origin.gate.write().await;
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let harness = Arc::clone(&harness);
            tokio::spawn(async move { harness.get("/a").await.body })
        })
        .collect();
    wait_until("the origin is called", || harness.calls() == 1).await;
    wait_until("one fetch is in progress", || harness.cache.stats().in_flight == 1).await;
    drop(gate);
    for client in clients {
        assert_eq!(client.await.unwrap(), "1 /a");
    }
    assert_eq!(harness.calls(), 1);
}

#[tokio::test]
async fn a_disconnecting_client_does_not_cancel_the_fetch_for_the_others() {
    let harness = Arc::new(Harness::default());
    let gate = harness.origin.gate.write().await;
    let first = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.get("/a").await.body }
    });
    wait_until("the origin is called", || harness.calls() == 1).await;
    let second = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.get("/a").await.body }
    });
    tokio::task::yield_now().await;
    first.abort();
    drop(gate);
    assert_eq!(second.await.unwrap(), "1 /a");
    assert_eq!(harness.calls(), 1);
}

#[tokio::test]
async fn a_failure_is_shared_with_waiting_requests_and_not_stored() {
    let harness = Arc::new(Harness::default());
    harness.set_response(503, &[]);
    let gate = harness.origin.gate.write().await;
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let harness = Arc::clone(&harness);
            tokio::spawn(async move { harness.get("/a").await.status })
        })
        .collect();
    wait_until("the origin is called", || harness.calls() == 1).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    drop(gate);
    for client in clients {
        assert_eq!(client.await.unwrap(), 503);
    }
    assert_eq!(harness.calls(), 1);
    harness.set_response(200, &[]);
    assert_eq!(harness.get("/a").await.status, 200);
}

#[tokio::test]
async fn requests_for_an_unshareable_response_each_get_their_own() {
    let harness = Arc::new(Harness::default());
    harness.set_response(200, &[("cache-control", "private")]);
    let gate = harness.origin.gate.write().await;
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let harness = Arc::clone(&harness);
            tokio::spawn(async move { harness.get("/a").await.body })
        })
        .collect();
    wait_until("the origin is called", || harness.calls() >= 1).await;
    drop(gate);
    let mut bodies = Vec::new();
    for client in clients {
        bodies.push(client.await.unwrap());
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 5);
}

#[tokio::test]
async fn a_refusal_does_not_evict_the_fallback_for_a_failure() {
    let harness = Harness::default();
    harness.set_policy(|policy| policy.stale_if_error = Duration::from_mins(10));
    harness.get("/a").await;
    harness.advance(20);
    for status in [429, 503] {
        harness.set_response(status, &[]);
        let expected = if status == 429 { 429 } else { 200 };
        assert_eq!(harness.get("/a").await.status, expected);
    }
}

#[tokio::test]
async fn a_response_to_credentials_does_not_stop_sharing_among_anonymous_clients() {
    let harness = Harness::default();
    harness.get_as("ann", "/a").await;
    let mut with_credentials = harness.request(Method::GET, "/b");
    with_credentials.extensions_mut().insert(Tenant(""));
    harness.send(with_credentials).await;
    let calls_before = harness.calls();
    assert_eq!(harness.get("/b").await.header("cache-status"), "test; fwd=uri-miss; stored");
    assert_eq!(
        (harness.get("/b").await.header("cache-status"), harness.calls()),
        ("test; hit; ttl=9", calls_before + 1)
    );
}

#[tokio::test]
async fn a_failure_with_a_cookie_or_to_credentials_is_not_shared() {
    for (headers, tenant) in [(vec![("set-cookie", "a=1")], None), (vec![], Some("ann"))] {
        let harness = Arc::new(Harness::default());
        harness.set_response(500, &headers);
        let gate = harness.origin.gate.write().await;
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let harness = Arc::clone(&harness);
                tokio::spawn(async move {
                    match tenant {
                        Some(tenant) => harness.get_as(tenant, "/a").await.status,
                        None => harness.get("/a").await.status,
                    }
                })
            })
            .collect();
        wait_until("the origin is called", || harness.calls() >= 1).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        drop(gate);
        for client in clients {
            assert_eq!(client.await.unwrap(), 500);
        }
        assert_eq!(harness.calls(), 3);
    }
}

/// A body that announces five bytes and sends none, or one of the given bytes.
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
async fn a_stalled_body_times_out() {
    let harness = Harness::default();
    let inner = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Stalled(None))) });
    let service = HttpCacheLayer::new(harness.cache.clone(), "test", ACCESSORS).layer(inner);
    let first = tokio::spawn(service.clone().oneshot(harness.request(Method::GET, "/a")));
    wait_until("the fetch is in progress", || harness.cache.stats().in_flight == 1).await;
    let second = tokio::spawn(service.oneshot(harness.request(Method::GET, "/a")));
    assert_eq!(first.await.unwrap().unwrap().status(), 504);
    assert_eq!(second.await.unwrap().unwrap().status(), 200, "the second request calls the handler itself");
    assert_eq!(harness.cache.stats().in_flight, 0);
}
