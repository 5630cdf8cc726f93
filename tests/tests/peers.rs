//! Peers of the gateway that are slow, failing or unreachable: which endpoints are called, for how long, and
//! how the gateway reports them.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use phase6_tests::{Gateway, Readiness, Upstream, wait_until};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Sends concurrent requests, all of which must succeed.
async fn send_concurrently(gateway: &Gateway, count: usize) {
    let responses = join_all((0..count).map(|_| gateway.get("/api/v1/budget"))).await;
    assert!(responses.into_iter().all(|response| response.unwrap().status() == 200));
}

async fn wait_until_idle(gateway: &Gateway, upstream: &Upstream) {
    wait_until("no request is in flight", || async {
        gateway.endpoint_health(upstream.address).await["inFlight"] == 0
    })
    .await;
}

/// In the original system the gateway waited without a limit for the readiness of a peer.
#[tokio::test]
async fn a_silent_peer_delays_no_report_and_is_named_as_missing() {
    let upstream = Upstream::start().await;
    upstream.set_readiness(Readiness::Silent);
    upstream.stay_silent();
    let gateway = Gateway::in_front_of(&upstream).await;
    let start = Instant::now();
    let status: Value = gateway.get("/system/status").await.unwrap().json().await.unwrap();
    assert_eq!((&status["services"]["budget"], &status["services"]["web"]), (&json!(false), &json!(true)));
    assert!(status["missing"].as_array().unwrap().contains(&json!("budget")), "{status}");
    let report: Value =
        gateway.get("/api/v1/system/observability/fleet").await.unwrap().json().await.unwrap();
    let reason = report["missing"]["budget"].as_str().unwrap();
    assert!(reason.starts_with("budget did not respond within"), "{reason}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?} for two reports", start.elapsed());
}

#[tokio::test]
async fn an_endpoint_gets_no_requests_while_it_is_not_ready() {
    let (ready, unready) = (Upstream::start().await, Upstream::start().await);
    unready.set_readiness(Readiness::NotReady);
    let endpoints = [ready.address.to_string(), unready.address.to_string()];
    let gateway = Gateway::start(&endpoints, json!({}), &[]).await;
    wait_until("the endpoint is reported as unhealthy", || async {
        gateway.endpoint_health(unready.address).await["health"] == "unhealthy"
    })
    .await;
    let before = unready.requests().len();
    send_concurrently(&gateway, 20).await;
    assert_eq!(unready.requests().len(), before, "an endpoint that is not ready was called");
    unready.set_readiness(Readiness::Ready);
    wait_until("the endpoint gets requests again", || async {
        send_concurrently(&gateway, 20).await;
        unready.requests().len() > before
    })
    .await;
    assert_eq!(gateway.endpoint_health(unready.address).await["health"], "healthy");
}

#[tokio::test]
async fn only_responses_that_blame_the_peer_open_its_breaker() {
    let upstream = Upstream::start().await;
    let policy = json!({"circuitBreaker": {"minimumCalls": 6, "openFor": "1h"}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    let blameless: [(&str, &[(&str, &str)]); 3] = [
        ("404 Not Found", &[]),
        ("429 Too Many Requests", &[("retry-after", "1")]),
        ("503 Service Unavailable", &[("phase6-fault", "dependency")]),
    ];
    for (status, headers) in blameless {
        upstream.respond(status, headers, "");
        for _ in 0..10 {
            let response = gateway.get("/api/v1/budget").await.unwrap();
            assert!(status.starts_with(response.status().as_str()), "{status}");
        }
    }
    assert_eq!(upstream.requests().len(), 30);
    upstream.respond("500 Internal Server Error", &[], "");
    let mut statuses = Vec::new();
    while statuses.last() != Some(&503) {
        assert!(statuses.len() < 60, "never opened: {statuses:?}");
        statuses.push(gateway.get("/api/v1/budget").await.unwrap().status().as_u16());
    }
    let calls = upstream.requests().len();
    assert_eq!(calls, 30 + statuses.len() - 1, "{statuses:?}");
    for _ in 0..5 {
        assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 503);
    }
    assert_eq!(upstream.requests().len(), calls, "a peer with an open breaker was called");
}

/// Prevents one client from making a service unavailable to all.
#[tokio::test]
async fn broken_request_bodies_of_clients_do_not_count_as_failures_of_the_peer() {
    let upstream = Upstream::start().await;
    let policy = json!({"circuitBreaker": {"minimumCalls": 6, "openFor": "1h"}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    let head = "POST /api/v1/budget HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let huge = format!("{head}{}", chunk.repeat(40));
    for (bytes, status_line) in [(format!("{head}zz\r\n"), "HTTP/1.1 400 "), (huge, "HTTP/1.1 413 ")] {
        for _ in 0..10 {
            let response = gateway.send_raw(bytes.as_bytes()).await;
            assert!(response.starts_with(status_line), "{response}");
        }
    }
    for _ in 0..10 {
        // The client leaves in the middle of its body.
        let mut socket = TcpStream::connect(("127.0.0.1", gateway.port)).await.unwrap();
        socket.write_all(format!("{head}5\r\nhel").as_bytes()).await.unwrap();
        drop(socket);
    }
    wait_until_idle(&gateway, &upstream).await;
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 200);
    let breaker = &gateway.budget_health().await["circuitBreakers"]["budget"];
    assert_eq!((&breaker["status"], &breaker["failureCount"]), (&json!("closed"), &json!(0)));
}

/// With one healthy endpoint of four, the whole load would overload it, so at least half of the endpoints stay
/// in use. A peer without any healthy endpoint is not called at all.
#[tokio::test]
async fn the_panic_threshold_keeps_half_of_the_endpoints_in_use_unless_all_fail() {
    let upstreams = join_all((0..4).map(|_| Upstream::start())).await;
    let endpoints: Vec<_> = upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
    let policy = json!({"circuitBreaker": {"minimumCalls": 3, "window": "10m", "openFor": "1h"}});
    let gateway = Gateway::start(&endpoints, policy, &[]).await;
    let open_breakers = async || {
        let breakers = gateway.budget_health().await["circuitBreakers"].as_object().unwrap().clone();
        breakers.values().filter(|breaker| breaker["status"] == "open").count()
    };
    // Makes the first endpoints fail, and waits until their breakers are open.
    let fail = async |count: usize| {
        for upstream in &upstreams[..count] {
            upstream.respond("500 Internal Server Error", &[], "");
        }
        wait_until("the breakers of the failing endpoints are open", || async {
            gateway.get("/api/v1/budget").await.unwrap();
            open_breakers().await == count
        })
        .await;
    };
    // Sends requests. Returns the number of calls to each endpoint, and that of successful responses.
    let send = async |requests: usize| {
        let before: Vec<_> = upstreams.iter().map(|upstream| upstream.requests().len()).collect();
        let mut successes = 0;
        for _ in 0..requests {
            successes += usize::from(gateway.get("/api/v1/budget").await.unwrap().status() == 200);
        }
        let after = upstreams.iter().map(|upstream| upstream.requests().len());
        (after.zip(before).map(|(after, before)| after - before).collect::<Vec<_>>(), successes)
    };
    fail(2).await;
    let (calls, successes) = send(60).await;
    assert_eq!((calls[0], calls[1], successes), (0, 0, 60), "{calls:?}");
    fail(3).await;
    let (calls, successes) = send(300).await;
    assert!((75..=225).contains(&successes) && calls[3] == successes, "{calls:?}");
    assert!(calls.iter().all(|calls| *calls > 10), "every endpoint is called in turn: {calls:?}");
    fail(4).await;
    let (calls, successes) = send(10).await;
    assert_eq!((calls.iter().sum::<usize>(), successes), (0, 0), "{calls:?}");
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 503);
}

/// A request that could not be sent is safe to send to another endpoint.
#[tokio::test]
async fn endpoints_without_a_listener_fail_no_request_however_many_they_are() {
    let upstream = Upstream::start().await;
    // Nothing listens on ports 1 to 3.
    let mut endpoints: Vec<String> = (1..=3).map(|port| format!("127.0.0.1:{port}")).collect();
    endpoints.push(upstream.address.to_string());
    let policy = json!({"circuitBreaker": {"minimumCalls": 3, "openFor": "1h"}});
    let gateway = Gateway::start(&endpoints, policy, &[]).await;
    wait_until("three endpoints are reported as unhealthy", || async {
        let health = gateway.budget_health().await;
        let endpoints = health["endpoints"].as_array().unwrap();
        endpoints.iter().filter(|endpoint| endpoint["health"] == "unhealthy").count() == 3
    })
    .await;
    for i in 0..200 {
        let response = gateway.http.post(gateway.url("/api/v1/budget")).send().await.unwrap();
        assert_eq!(response.status(), 200, "request {i}");
    }
}

#[tokio::test]
async fn a_breaker_opens_after_exactly_its_minimum_of_calls_if_all_fail() {
    let upstream = Upstream::start().await;
    upstream.respond("500 Internal Server Error", &[], "");
    let policy = json!({"circuitBreaker": {"minimumCalls": 6, "openFor": "1h"}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 500);
    }
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 503);
    assert_eq!(upstream.requests().len(), 6);
}

#[tokio::test]
async fn a_call_past_its_deadline_is_aborted_at_the_peer_too() {
    let upstream = Upstream::start().await;
    upstream.stay_silent();
    let gateway =
        Gateway::start(&[upstream.address.to_string()], json!({}), &[("UPSTREAM_DEADLINE_MS", "200")]).await;
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 504);
    wait_until("the upstream sees the connection close", || async { upstream.abandoned() == 1 }).await;
    wait_until_idle(&gateway, &upstream).await;
}

#[tokio::test]
async fn a_call_is_aborted_at_the_peer_when_its_client_leaves() {
    let upstream = Upstream::start().await;
    upstream.stay_silent();
    let gateway = Gateway::in_front_of(&upstream).await;
    let client = tokio::spawn(gateway.http.get(gateway.url("/api/v1/budget")).send());
    wait_until("the request is in flight", || async { upstream.requests().len() == 1 }).await;
    client.abort();
    wait_until("the upstream sees the connection close", || async { upstream.abandoned() == 1 }).await;
    wait_until_idle(&gateway, &upstream).await;
}

#[tokio::test]
async fn an_unanswered_probe_delays_no_other_endpoint_and_is_not_sent_twice_at_once() {
    let (ready, silent) = (Upstream::start().await, Upstream::start().await);
    silent.set_readiness(Readiness::Silent);
    let endpoints = [ready.address.to_string(), silent.address.to_string()];
    let gateway = Gateway::start(&endpoints, json!({}), &[]).await;
    wait_until("the other endpoint is reported as healthy", || async {
        gateway.endpoint_health(ready.address).await["health"] == "healthy"
    })
    .await;
    wait_until("three probes have been sent", || async { silent.probes().received >= 3 }).await;
    assert_eq!(silent.probes().most_concurrent, 1);
    assert_eq!(gateway.endpoint_health(ready.address).await["health"], "healthy");
}
