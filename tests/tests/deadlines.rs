//! Deadlines of callers: passed on to peers, enforced, and accepted from our own services only.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phase6_identity::{InternalToken, Principal};
use phase6_tests::{Gateway, Upstream, wait_until};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdef-fleet";

/// Starts a gateway that gives its peers 20 s for a request.
async fn start_gateway(upstream: &Upstream) -> Gateway {
    let environment = [("PHASE6_INTERNAL_TOKEN", TOKEN), ("UPSTREAM_DEADLINE_MS", "20000")];
    let policy = json!({"circuitBreaker": {"minimumCalls": 3, "openFor": "1h"}});
    Gateway::start(&[upstream.address.to_string()], policy, &environment).await
}

/// Sends a request with an assertion that `token` signs, and with a deadline in milliseconds.
async fn get_with_deadline(gateway: &Gateway, token: &str, milliseconds: &str) -> (u16, Value) {
    let request = gateway.http.get(gateway.url("/api/v1/budget"));
    let token = InternalToken::new(token).unwrap();
    let assertion = token.sign(&Principal::anonymous(), Timestamp::now());
    let request = request.header("phase6-internal", assertion).header("phase6-deadline-ms", milliseconds);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or_default())
}

/// Returns the deadline in milliseconds of the last request that the upstream received.
fn received_deadline(upstream: &Upstream) -> u64 {
    let request = upstream.requests().pop().unwrap();
    let values: Vec<_> =
        request.lines().filter_map(|line| line.strip_prefix("phase6-deadline-ms: ")).collect();
    assert_eq!(values.len(), 1, "{request}");
    values[0].parse().unwrap()
}

#[tokio::test]
async fn a_peer_receives_the_remaining_time_of_its_caller() {
    let upstream = Upstream::start().await;
    let gateway = start_gateway(&upstream).await;
    let received = || received_deadline(&upstream);
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 200);
    assert!((1..=20_000).contains(&received()), "{}", received());
    // The shorter one of the caller's time and the gateway's own limit is passed on.
    assert_eq!(get_with_deadline(&gateway, TOKEN, "5000").await.0, 200);
    assert!((1..=5_000).contains(&received()), "{}", received());
    assert_eq!(get_with_deadline(&gateway, TOKEN, "90000").await.0, 200);
    assert!((10_000..=20_000).contains(&received()), "{}", received());
    for invalid in ["", "-1", "soon", "99999999999999999999999", "18446744073709551615"] {
        assert_eq!(get_with_deadline(&gateway, TOKEN, invalid).await.0, 200, "{invalid}");
        assert!((10_000..=20_000).contains(&received()), "{invalid}: {}", received());
    }
}

#[tokio::test]
async fn work_ends_at_the_deadline_of_the_caller() {
    let upstream = Upstream::start().await;
    let gateway = start_gateway(&upstream).await;
    upstream.stay_silent();
    let start = Instant::now();
    let (status, body) = get_with_deadline(&gateway, TOKEN, "300").await;
    assert_eq!(status, 504, "{body}");
    assert!(start.elapsed() >= Duration::from_millis(290), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    wait_until("the upstream sees the connection close", || async { upstream.abandoned() == 1 }).await;
    // Without any time left the peer is not called.
    let before = upstream.requests().len();
    assert_eq!(get_with_deadline(&gateway, TOKEN, "0").await.0, 504);
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn a_short_deadline_of_a_caller_does_not_count_as_a_failure_of_the_peer() {
    let upstream = Upstream::start().await;
    let gateway = start_gateway(&upstream).await;
    upstream.stay_silent();
    for _ in 0..6 {
        assert_eq!(get_with_deadline(&gateway, TOKEN, "50").await.0, 504);
    }
    let health = gateway.budget_health().await;
    let breaker = &health["circuitBreakers"]["budget"];
    assert_eq!((&breaker["status"], &breaker["failureCount"]), (&json!("closed"), &json!(0)), "{health}");
    upstream.respond("200 OK", &[], "hello");
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 200);
}

/// Protects work that several clients wait for: an external client must not abort it.
#[tokio::test]
async fn a_deadline_without_the_internal_token_is_neither_enforced_nor_passed_on() {
    let upstream = Upstream::start().await;
    let gateway = start_gateway(&upstream).await;
    let pause = Duration::from_millis(200);
    upstream.respond_with(vec![(pause, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())]);
    for token in ["0123456789abcdef-guess", "0123456789abcdef-fleet."] {
        assert_eq!(get_with_deadline(&gateway, token, "1").await.0, 200);
        let received = received_deadline(&upstream);
        assert!((10_000..=20_000).contains(&received), "{received}");
    }
}
