//! The gateway between clients and an upstream whose responses the test sets.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::{BTreeSet, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use phase6_tests::{EXAMPLE, Fleet, Gateway, Upstream, services, wait_until};
use serde_json::{Value, json};

fn head_lines(request: &str) -> Vec<String> {
    request.split("\r\n\r\n").next().unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn methods_headers_and_bodies_are_forwarded_both_ways() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::in_front_of(&upstream).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        upstream.respond(
            "207 Multi-Status",
            &[("x-from-upstream", "yes"), ("set-cookie", "a=1"), ("content-type", "text/x-odd")],
            "body back",
        );
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let response = gateway
            .http
            .request(method.clone(), gateway.url("/api/v1/budget/a%20b?x=1&x=2&y=%2F"))
            .header("x-custom", "forwarded")
            .header("authorization", "Bearer forwarded")
            .body("body forth")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), 207);
        assert_eq!(response.headers()["x-from-upstream"], "yes");
        assert_eq!(response.headers()["set-cookie"], "a=1");
        assert_eq!(response.headers()["content-type"], "text/x-odd");
        assert_eq!(response.text().await.unwrap(), "body back");
        let request = upstream.requests().pop().unwrap();
        let lines = head_lines(&request);
        assert_eq!(lines[0], format!("{method} /api/v1/budget/a%20b?x=1&x=2&y=%2F HTTP/1.1"));
        assert!(
            lines.contains(&"x-custom: forwarded".to_owned())
                && lines.contains(&"authorization: Bearer forwarded".to_owned())
        );
        assert!(lines.contains(&format!("host: {}", upstream.address)), "{lines:?}");
        assert!(request.ends_with("body forth"), "{request}");
    }
}

#[tokio::test]
async fn the_response_to_head_has_no_body_and_the_content_length_of_the_upstream() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::in_front_of(&upstream).await;
    upstream
        .respond_with(vec![(Duration::ZERO, b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_vec())]);
    let response = gateway.http.head(gateway.url("/api/v1/budget")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-length"].to_str().unwrap()),
        (200, "1234")
    );
}

#[tokio::test]
async fn hop_by_hop_and_forwarding_headers_of_clients_are_removed() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::in_front_of(&upstream).await;
    upstream.respond(
        "200 OK",
        &[("connection", "x-secret"), ("x-secret", "1"), ("keep-alive", "timeout=1"), ("x-public", "1")],
        "ok",
    );
    let response = gateway
        .send_raw(
            b"GET /api/v1/budget HTTP/1.1\r\nhost: a\r\nconnection: x-mine\r\nx-mine: 1\r\nte: trailers\r\nproxy-authorization: x\r\nx-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nphase6-internal: guess\r\nx-end-to-end: 1\r\n\r\n",
        )
        .await
        .to_lowercase();
    assert!(
        response.contains("x-public: 1")
            && !response.contains("x-secret")
            && !response.contains("keep-alive:"),
        "{response}"
    );
    let request = upstream.requests().pop().unwrap().to_lowercase();
    for absent in ["x-mine", "te:", "proxy-authorization", "6.6.6.6", "forwarded: for", "guess"] {
        assert!(!request.contains(absent), "{absent}: {request}");
    }
    assert!(
        request.contains("x-end-to-end: 1")
            && request.contains("x-forwarded-for: 127.0.0.1")
            && request.contains("via: 1.1 phase6"),
        "{request}"
    );
    assert!(response.contains("via: 1.1 phase6"), "{response}");
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::in_front_of(&upstream).await;
    let pause = Duration::from_millis(400);
    upstream.respond_with(vec![
        (
            Duration::ZERO,
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec(),
        ),
        (Duration::ZERO, b"7\r\ndata: 1\r\n".to_vec()),
        (pause, b"7\r\ndata: 2\r\n0\r\n\r\n".to_vec()),
    ]);
    let start = Instant::now();
    let response = gateway.get("/api/v1/providers/realtime").await.unwrap();
    let mut chunks = response.bytes_stream();
    assert_eq!(&chunks.next().await.unwrap().unwrap()[..], b"data: 1");
    assert!(start.elapsed() < pause, "the first chunk waited for the second");
    assert_eq!(&chunks.next().await.unwrap().unwrap()[..], b"data: 2");
    assert!(chunks.next().await.is_none());

    upstream.respond("200 OK", &[], "got it");
    let body = reqwest::Body::wrap_stream(
        futures_util::stream::iter(["one ", "two ", "three"]).map(Ok::<_, std::io::Error>),
    );
    let response = gateway.http.post(gateway.url("/api/v1/budget")).body(body).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "got it");
    let request = upstream.requests().pop().unwrap();
    assert!(
        request.contains("transfer-encoding: chunked")
            && request.contains("one ")
            && request.contains("three"),
        "{request}"
    );
}

/// Requests that two parsers could read differently are refused, or rewritten so that the upstream receives
/// exactly the one request that the gateway read.
#[tokio::test]
async fn smuggled_requests_never_reach_the_upstream() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::in_front_of(&upstream).await;
    let inner = "GET /api/v1/budget/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let post = "POST /api/v1/budget HTTP/1.1\r\nhost: a\r\n";
    let mut payloads: Vec<String> = Vec::new();
    let encodings = [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:\tchunked",
        "transfer-encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunKed",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: chunked;q=1",
        "\u{b}Transfer-Encoding: chunked",
        "Transfer-Encoding: \u{b}chunked",
    ];
    let lengths = [
        "Content-Length: 0",
        "Content-Length: 4",
        "Content-Length: +4",
        "Content-Length: 4, 4",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 0x4",
        "Content-Length: -1",
        "Content-Length: 4 4",
        "Content-Length : 4",
        "Content-Length: 99999999999999999999",
        "Content-Length:\r\n 4",
        "X: y\r\nContent-Length: 6",
        "Content-Length: ",
    ];
    let bodies = [
        format!("0\r\n\r\n{inner}"),
        format!("4\r\nabcd\r\n0\r\n\r\n{inner}"),
        format!("abcd{inner}"),
        format!("0x4\r\nabcd\r\n0\r\n\r\n{inner}"),
        format!("4;ext=\"\n\"\r\nabcd\r\n0\r\n\r\n{inner}"),
        format!("-1\r\n{inner}"),
    ];
    for encoding in encodings {
        for length in lengths {
            for body in &bodies {
                payloads.push(format!("{post}{encoding}\r\n{length}\r\n\r\n{body}"));
            }
        }
        for body in &bodies {
            payloads.push(format!("{post}{encoding}\r\n\r\n{body}"));
        }
    }
    for line in [
        "GET  /api/v1/budget HTTP/1.1",
        "GET /api/v1/budget HTTP/1.1 x",
        "GET /api/v1/budget\tHTTP/1.1",
        "GET /api/v1/budget",
        "GET /api/v1/budget HTTP/1.2",
        "GET /api/v1/budget\r\n HTTP/1.1",
        "G\0ET /api/v1/budget HTTP/1.1",
        "GET /api/v1/bud\0get HTTP/1.1",
        "GET http://evil/../api/v1/budget HTTP/1.1",
        "GET /api/v1/budget#x HTTP/1.1",
        "\r\n\r\nGET /api/v1/budget HTTP/1.1",
    ] {
        payloads.push(format!("{line}\r\nhost: a\r\n\r\n"));
    }
    for header in
        ["bad header: x", "x\0: y", "x: y\0z", ": empty", "x: y\r\n folded", "no colon", "x: y\rz: w"]
    {
        payloads.push(format!("GET /api/v1/budget HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n"));
    }
    assert!(payloads.len() >= 1_000, "{}", payloads.len());
    for chunk in payloads.chunks(64) {
        futures_util::future::join_all(chunk.iter().map(|payload| gateway.send_raw(payload.as_bytes())))
            .await;
    }
    // A pipelined second request is a valid request, with its own line in the log: it may reach the upstream,
    // but only as a request, never inside another one, and never with the body of another one.
    for request in upstream.requests() {
        let head = request.split("\r\n\r\n").next().unwrap().to_lowercase();
        let count = |name: &str| head.lines().filter(|line| line.starts_with(name)).count();
        assert!(count("content-length:") + count("transfer-encoding:") <= 1, "{request}");
        assert!(!head.contains('\0') && !head.contains('\u{b}'), "{request}");
        let body = request.split_once("\r\n\r\n").unwrap().1;
        let is_inner = head.starts_with("get /api/v1/budget/smuggled http/1.1");
        assert!(!is_inner || body.is_empty(), "{request}");
    }
    assert_eq!(gateway.get("/readyz").await.unwrap().status(), 200, "the gateway no longer runs");
}

#[tokio::test]
async fn failures_of_upstreams_have_distinct_statuses_and_codes() {
    let upstream = Upstream::start().await;
    let policy = json!({"circuitBreaker": {"minimumCalls": 6, "openFor": "1h"}});
    let gateway =
        Gateway::start(&[upstream.address.to_string()], policy, &[("UPSTREAM_DEADLINE_MS", "300")]).await;
    // Status, code of the error, and presence of `Retry-After`.
    let failure = |path: &'static str| {
        let request = gateway.http.post(gateway.url(path));
        async move {
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let has_retry_after = response.headers().contains_key("retry-after");
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["traceId"].as_str().map(str::len), Some(32));
            (status, body["error"]["code"].as_str().unwrap().to_owned(), has_retry_after)
        }
    };
    // The connection ends without a response.
    upstream.respond_with(vec![(Duration::ZERO, vec![])]);
    assert_eq!(failure("/api/v1/budget").await, (502, "upstream_failed".into(), false));
    // There is no response within the deadline.
    upstream.respond_with(vec![(
        Duration::from_secs(5),
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
    )]);
    assert_eq!(failure("/api/v1/budget").await, (504, "upstream_timeout".into(), false));
    // Nothing listens.
    assert_eq!(failure("/api/v1/training/x").await, (503, "upstream_unavailable".into(), true));
    // After too many failures the upstream is no longer called.
    upstream.respond_with(vec![(Duration::ZERO, vec![])]);
    for _ in 0..4 {
        failure("/api/v1/budget").await;
    }
    let before = upstream.requests().len();
    assert_eq!(failure("/api/v1/budget").await, (503, "upstream_unavailable".into(), true));
    assert_eq!(upstream.requests().len(), before);
    assert_eq!(gateway.budget_health().await["circuitBreakers"]["budget"]["status"], "open");
}

#[tokio::test]
async fn error_responses_of_an_upstream_are_forwarded_unchanged() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::in_front_of(&upstream).await;
    for status in [
        "400 Bad Request",
        "404 Not Found",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
    ] {
        upstream.respond(
            status,
            &[("retry-after", "7"), ("content-type", "application/json")],
            "{\"mine\":true}",
        );
        let response = gateway.http.post(gateway.url("/api/v1/budget")).send().await.unwrap();
        assert_eq!(response.status().as_u16().to_string(), status[..3]);
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(response.text().await.unwrap(), "{\"mine\":true}");
    }
}

#[tokio::test]
async fn only_idempotent_requests_are_retried_and_only_once() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::in_front_of(&upstream).await;
    upstream.respond_with(vec![(Duration::ZERO, vec![])]);
    let attempts = |method: &'static str| {
        let (upstream, gateway) = (&upstream, &gateway);
        async move {
            let before = upstream.requests().len();
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let response = gateway.http.request(method, gateway.url("/api/v1/budget")).send().await.unwrap();
            assert_eq!(response.status(), 502);
            upstream.requests().len() - before
        }
    };
    assert_eq!(attempts("GET").await, 2);
    assert_eq!(attempts("POST").await, 1);
    assert_eq!(attempts("PATCH").await, 1);
    assert_eq!(attempts("DELETE").await, 2);
}

#[tokio::test]
async fn an_endpoint_that_is_down_fails_no_request_while_another_is_up() {
    let upstream = Upstream::start().await;
    // Nothing listens on port 1.
    let down = SocketAddr::from(([127, 0, 0, 1], 1));
    let gateway = Gateway::start(&[down, upstream.address].map(|a| a.to_string()), json!({}), &[]).await;
    for i in 0..60 {
        let response = gateway.get("/api/v1/budget").await.unwrap();
        assert_eq!(response.status(), 200, "request {i}");
    }
    wait_until("the endpoint is reported as down", || async {
        gateway.endpoint_health(down).await["health"] == "unhealthy"
            && gateway.endpoint_health(upstream.address).await["health"] == "healthy"
    })
    .await;
}

#[tokio::test]
async fn equal_endpoints_share_the_load() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::start(&[one.address.to_string(), two.address.to_string()], json!({}), &[]).await;
    // Concurrent clients: between idle endpoints the faster last call decides, however uneven the shares.
    let clients = (0..10).map(|_| async {
        for _ in 0..20 {
            assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 200);
        }
    });
    futures_util::future::join_all(clients).await;
    let (one, two) = (one.requests().len(), two.requests().len());
    assert_eq!(one + two, 200);
    assert!(one >= 30 && two >= 30, "{one} and {two}");
}

#[tokio::test]
async fn a_client_over_its_limit_is_refused_and_cannot_forge_its_address() {
    let upstream = Upstream::start().await;
    let policy = json!({"rateLimit": {"capacity": 5, "refillPerSecond": 0.01}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    let mut statuses = Vec::new();
    for i in 0..8 {
        let request =
            gateway.http.get(gateway.url("/api/v1/budget")).header("x-forwarded-for", format!("10.0.0.{i}"));
        let response = request.send().await.unwrap();
        statuses.push(response.status().as_u16());
        if i == 7 {
            assert_eq!(response.headers()["x-ratelimit-remaining"], "0");
            assert_eq!(response.headers()["ratelimit-policy"], "\"default\";q=5;w=500");
            assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 90);
            let body: Value = response.json().await.unwrap();
            assert_eq!((&body["ok"], &body["error"]["code"]), (&json!(false), &json!("rate_limited")));
        }
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    assert_eq!(upstream.requests().len(), 5);
}

/// In the original system the queue of one client over its limit ended the process of the gateway.
#[tokio::test]
async fn the_gateway_stays_ready_during_a_flood_of_refused_requests() {
    let upstream = Upstream::start().await;
    let policy = json!({"rateLimit": {"capacity": 100, "refillPerSecond": 1}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    let flood = (0..64).map(|_| async {
        let mut refused = 0;
        for _ in 0..40 {
            refused += usize::from(gateway.get("/api/v1/budget").await.unwrap().status() == 429);
        }
        refused
    });
    let refused: usize = futures_util::future::join_all(flood).await.into_iter().sum();
    assert!(refused >= 64 * 40 - 130, "{refused}");
    assert_eq!(gateway.get("/readyz").await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_trace_begins_at_the_gateway_and_continues_in_the_service_behind_it() {
    let text = EXAMPLE.replace("samplingRate: 0.10", "samplingRate: 1.0");
    let fleet = Fleet::with(&text, &[], &[]);
    let response = fleet.http.get(fleet.url("web", "/api/v1/budget")).send().await.unwrap();
    let trace = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let spans = |service: &'static str| {
        let fleet = &fleet;
        async move {
            let (_, report) = fleet.get(service, "/api/v1/system/observability").await;
            report["tracer"]["spans"].as_array().unwrap().clone()
        }
    };
    let of_trace =
        |spans: Vec<Value>| spans.into_iter().filter(|span| span["traceId"] == trace).collect::<Vec<_>>();
    let (web, budget) = (of_trace(spans("web").await), of_trace(spans("budget").await));
    let client_span = web.iter().find(|span| span["kind"] == "client").unwrap();
    let server_span = budget.iter().find(|span| span["kind"] == "server").unwrap();
    assert_eq!(server_span["parentSpanId"], client_span["spanId"], "{web:?} {budget:?}");
    assert_eq!(server_span["name"], "GET /api/v1/budget");
    let names: HashSet<_> = web.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert!(names.contains("GET forward budget") && names.contains("GET budget"), "{names:?}");

    // A client cannot force a trace to be recorded.
    fleet.save(&text.replace("samplingRate: 1.0", "samplingRate: 0"));
    fleet.program.wait_for_output("web: tracing.samplingRate 1");
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    fleet.http.get(fleet.url("web", "/api/v1/budget")).header("traceparent", sampled).send().await.unwrap();
    let is_recorded =
        spans("web").await.iter().any(|span| span["traceId"] == "0af7651916cd43dd8448eb211c80319c");
    assert!(!is_recorded);
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn the_gateway_reports_the_whole_fleet_and_names_missing_services() {
    let fleet = Fleet::with(EXAMPLE, &["--only", "web,budget,meta"], &[]);
    let (status, report) = fleet.get("web", "/api/v1/system/observability/fleet").await;
    assert_eq!((status, report["responded"].as_u64()), (200, Some(3)), "{report}");
    assert_eq!(report["services"]["budget"]["service"], "budget-server");
    let missing: Vec<_> = report["missing"].as_object().unwrap().keys().cloned().collect();
    let others: BTreeSet<_> = services().filter(|name| !["web", "budget", "meta"].contains(name)).collect();
    assert!(missing.iter().eq(&others), "{missing:?}");
    let (_, status) = fleet.get("web", "/system/status").await;
    assert_eq!((&status["services"]["meta"], &status["services"]["coach"]), (&json!(true), &json!(false)));
    let (_, routes) = fleet.get("web", "/api/v1/system/routes").await;
    assert_eq!(routes["routes"].as_array().unwrap().len(), services().count() - 1);
    assert_eq!(fleet.get("web", "/api/v1/health").await.1["server"], "web");
    assert_eq!(fleet.stop(), Some(0));
}
