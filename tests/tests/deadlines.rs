//! How long a caller still waits is passed on, and nobody works for longer; and strangers have no say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::{Duration, Instant};

use phase6_tests::{Gateway, Upstream, until};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdef-fleet";

async fn gateway(upstream: &Upstream, limit_ms: &str) -> Gateway {
    let settings = [("PHASE6_INTERNAL_TOKEN", TOKEN), ("UPSTREAM_DEADLINE_MS", limit_ms)];
    let policy = json!({"circuitBreaker": {"minimumCalls": 3, "openFor": "1h"}});
    Gateway::start(&[upstream.address.to_string()], policy, &settings).await
}

/// Asks with a deadline, as one of our own services or as somebody who presents this token.
async fn ask(gateway: &Gateway, token: &str, milliseconds: &str) -> (u16, Value) {
    let request = gateway.http.get(gateway.url("/api/v1/budget"));
    let request = request.header("phase6-internal", token).header("phase6-deadline-ms", milliseconds);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// What the upstream was told last.
fn told(upstream: &Upstream) -> u64 {
    let seen = upstream.seen().pop().unwrap();
    let values: Vec<_> = seen.lines().filter_map(|line| line.strip_prefix("phase6-deadline-ms: ")).collect();
    assert_eq!(values.len(), 1, "{seen}");
    values[0].parse().unwrap()
}

fn silence() -> Vec<(Duration, Vec<u8>)> {
    vec![(Duration::from_mins(10), vec![])]
}

#[tokio::test]
async fn a_peer_is_told_how_long_its_caller_waits() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "20000").await;
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 200);
    assert!((1..=20_000).contains(&told(&upstream)), "{}", told(&upstream));
    // Who has less time than the gateway gives passes that on; who has more gets no more.
    assert_eq!(ask(&gateway, TOKEN, "5000").await.0, 200);
    assert!((1..=5_000).contains(&told(&upstream)), "{}", told(&upstream));
    assert_eq!(ask(&gateway, TOKEN, "90000").await.0, 200);
    assert!((10_000..=20_000).contains(&told(&upstream)), "{}", told(&upstream));
    for nonsense in ["", "-1", "soon", "99999999999999999999999", "18446744073709551615"] {
        assert_eq!(ask(&gateway, TOKEN, nonsense).await.0, 200, "{nonsense}");
        assert!((10_000..=20_000).contains(&told(&upstream)), "{nonsense}: {}", told(&upstream));
    }
}

#[tokio::test]
async fn nobody_works_for_longer_than_the_caller_waits() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "20000").await;
    upstream.script(silence());
    let asked = Instant::now();
    let (status, answer) = ask(&gateway, TOKEN, "300").await;
    assert_eq!(status, 504, "{answer}");
    assert!(asked.elapsed() >= Duration::from_millis(290), "{:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    until("the upstream sees it end", || async { upstream.given_up() == 1 }).await;
    // Without any time left nobody is asked at all.
    let before = upstream.seen().len();
    assert_eq!(ask(&gateway, TOKEN, "0").await.0, 504);
    assert_eq!(upstream.seen().len(), before);
}

#[tokio::test]
async fn a_caller_in_a_hurry_says_nothing_about_the_peer() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "20000").await;
    upstream.script(silence());
    for _ in 0..6 {
        assert_eq!(ask(&gateway, TOKEN, "50").await.0, 504);
    }
    let shown = gateway.budget().await;
    let breaker = &shown["circuitBreakers"]["budget"];
    assert_eq!((&breaker["status"], &breaker["failureCount"]), (&json!("closed"), &json!(0)), "{shown}");
    upstream.answer("200 OK", &[], "hello");
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 200);
}

/// It could else have others' work cut short.
#[tokio::test]
async fn a_stranger_s_deadline_is_neither_believed_nor_passed_on() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "20000").await;
    let pause = Duration::from_millis(200);
    upstream.script(vec![(pause, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())]);
    for token in ["", "0123456789abcdef-guess"] {
        assert_eq!(ask(&gateway, token, "1").await.0, 200);
        assert!((10_000..=20_000).contains(&told(&upstream)), "{}", told(&upstream));
    }
}
