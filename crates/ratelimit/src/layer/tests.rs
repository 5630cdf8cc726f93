//! Tests of the middleware over local and delayed backends.

use std::{convert::Infallible, net::Ipv4Addr, time::Duration};

use serde_json::json;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{BucketConfig, BucketRef, LocalBuckets};

const ACCESSORS: RequestAccessors = RequestAccessors {
    limits: |extensions| extensions.get::<Arc<Limits>>().map(AsRef::as_ref),
    client: |_| Client { owner: None, address: IpAddr::V4(Ipv4Addr::LOCALHOST) },
};

/// A backend whose decisions are pending first.
#[derive(Clone)]
struct Delayed(LocalBuckets);

impl Backend for Delayed {
    fn decide(&self, bucket: &BucketRef<'_>, config: &BucketConfig) -> BackendDecision {
        let BackendDecision::Ready(decision) = self.0.decide(bucket, config) else { unreachable!() };
        BackendDecision::Pending(Box::pin(async move {
            tokio::task::yield_now().await;
            decision
        }))
    }
}

fn too_many_requests(_: Refusal) -> Response<&'static str> {
    let mut response = Response::new("too many requests");
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response
}

async fn send<B: Backend>(
    backend: B,
    policy: serde_json::Value,
    requests: usize,
) -> Vec<Response<&'static str>> {
    let limits = Arc::new(Limits::new(&serde_json::from_value(policy).unwrap(), 1, false));
    let layer = RateLimitLayer::new(backend, ACCESSORS, too_many_requests);
    let service =
        layer.layer(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new("hello")) }));
    let mut responses = Vec::new();
    for _ in 0..requests {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&limits));
        responses.push(service.clone().oneshot(request).await.unwrap());
    }
    responses
}

fn header<'a>(response: &'a Response<&str>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn an_admitted_response_states_the_remaining_tokens() {
    let responses =
        send(LocalBuckets::with_capacity(8), json!({"capacity": 2, "refillPerSecond": 1}), 1).await;
    assert_eq!(*responses[0].body(), "hello");
    assert_eq!(header(&responses[0], "ratelimit-policy"), "\"default\";q=2;w=2");
    assert_eq!(header(&responses[0], "ratelimit"), "\"default\";r=1;t=1");
    assert_eq!(header(&responses[0], "x-ratelimit-remaining"), "", "only a refusal has the older headers");
    assert_eq!(header(&responses[0], "retry-after"), "");
}

async fn refuses_the_third<B: Backend>(backend: B) {
    let responses = send(backend, json!({"capacity": 2, "refillPerSecond": 0.1}), 3).await;
    let statuses: Vec<_> = responses.iter().map(|response| response.status().as_u16()).collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(header(&responses[2], "retry-after"), "10");
    assert_eq!(header(&responses[2], "ratelimit"), "\"default\";r=0;t=10");
    assert_eq!(header(&responses[2], "x-ratelimit-limit"), "2");
    assert_eq!(header(&responses[2], "x-ratelimit-remaining"), "0");
    assert_eq!(header(&responses[2], "x-ratelimit-reset"), "10");
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_with_a_retry_time() {
    refuses_the_third(LocalBuckets::with_capacity(8)).await;
}

#[tokio::test]
async fn a_pending_decision_is_enforced_alike() {
    refuses_the_third(Delayed(LocalBuckets::with_capacity(8))).await;
}

#[tokio::test(start_paused = true)]
async fn time_spent_waiting_for_a_decision_reduces_the_wait_budget_of_inner_layers() {
    #[derive(Clone)]
    struct Slow;
    impl Backend for Slow {
        fn decide(&self, _: &BucketRef<'_>, _: &BucketConfig) -> BackendDecision {
            BackendDecision::Pending(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Decision::Admit { remaining: 1, full_in: Duration::ZERO }
            }))
        }
    }
    let inner = service_fn(|request: Request<()>| async move {
        let budget = request.extensions().get::<WaitBudget>().unwrap();
        Ok::<_, Infallible>(Response::new(if budget.remaining().as_millis() == 15 {
            "15 ms left"
        } else {
            ""
        }))
    });
    let limits = json!({"capacity": 1, "refillPerSecond": 1});
    let mut request = Request::new(());
    request.extensions_mut().insert(Arc::new(Limits::new(
        &serde_json::from_value(limits).unwrap(),
        1,
        false,
    )));
    let response =
        RateLimitLayer::new(Slow, ACCESSORS, too_many_requests).layer(inner).oneshot(request).await.unwrap();
    assert_eq!(*response.body(), "15 ms left");
}

#[tokio::test]
async fn shadow_mode_admits_every_request_and_off_writes_no_headers() {
    let shadow = json!({"capacity": 1, "refillPerSecond": 1, "mode": "Shadow"});
    let responses = send(LocalBuckets::with_capacity(8), shadow, 3).await;
    assert!(responses.iter().all(|response| response.status() == 200));
    let remaining = header(&responses[2], "x-ratelimit-remaining");
    assert_eq!(remaining, "0", "the headers describe the refusal that was not enforced");
    let off = json!({"capacity": 1, "refillPerSecond": 1, "mode": "Off"});
    let responses = send(LocalBuckets::with_capacity(8), off, 3).await;
    assert!(
        responses.iter().all(|response| response.status() == 200 && header(response, "ratelimit").is_empty())
    );
}

#[tokio::test]
async fn counts_every_request_once_by_its_decision() {
    let limits = Arc::new(Limits::new(
        &serde_json::from_value(json!({"capacity": 3, "refillPerSecond": 0.001})).unwrap(),
        1,
        false,
    ));
    let layer = RateLimitLayer::new(LocalBuckets::with_capacity(8), ACCESSORS, too_many_requests);
    let service = layer.layer(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new("")) }));
    for _ in 0..4 {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&limits));
        service.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(layer.counts(), DecisionCounts { admitted: 3, refused: 1, shadow_refused: 0 });
}
