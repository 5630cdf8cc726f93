//! Connections that misbehave: silent, slow, malformed, or too many.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::{Duration, Instant};

use phase6_tests::{ServiceProcess, wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn start_service() -> ServiceProcess {
    ServiceProcess::start("budget", &[]).await
}

/// Opens a connection and sends these bytes.
async fn connect(service: &ServiceProcess, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", service.port)).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

/// Returns the value of the first series whose name begins with `name`.
async fn metric(service: &ServiceProcess, name: &str) -> f64 {
    let metrics = service.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Returns everything received until the server closes the connection.
async fn read_to_end(mut socket: TcpStream) -> String {
    let mut received = Vec::new();
    let _ = socket.read_to_end(&mut received).await;
    String::from_utf8_lossy(&received).into_owned()
}

/// `axum::serve` keeps all of these connections open.
#[tokio::test]
async fn slow_connections_are_closed_and_other_clients_are_served() {
    let service = start_service().await;
    let kinds: [&[u8]; 4] = [
        b"",
        b"GET /read",
        b"GET /readyz HTTP/1.1\r\nhost: a\r\nx-slow",
        b"POST /api/v1/providers/burst HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ];
    let start = Instant::now();
    let mut sockets = Vec::new();
    for i in 0..2_000 {
        sockets.push(connect(&service, kinds[i % 4]).await);
    }
    let closing = tokio::spawn(futures_util::future::join_all(sockets.into_iter().map(read_to_end)));
    let mut slowest = Duration::ZERO;
    while !closing.is_finished() {
        let start = Instant::now();
        assert_eq!(service.get("/api/v1/budget").await.unwrap().0, 200, "other clients are served");
        slowest = slowest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let responses = closing.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let slow_bodies: Vec<_> = responses.iter().skip(3).step_by(4).collect();
    let first = slow_bodies.first();
    assert!(slow_bodies.iter().all(|response| response.contains("body_too_slow")), "{first:?}");
    assert!(metric(&service, "phase6_connections_timed_out_total").await >= 1_500.0);
    wait_until("only the connections of this client are open", || async {
        metric(&service, "phase6_connections_open").await <= 2.0
    })
    .await;
}

#[tokio::test]
async fn a_body_that_trickles_is_refused() {
    let service = start_service().await;
    let head = b"POST /api/v1/budget/can-afford HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n";
    let mut socket = connect(&service, head).await;
    let start = Instant::now();
    let mut response = [0; 12];
    loop {
        let sent = socket.write_all(b" ").await;
        match tokio::time::timeout(Duration::from_millis(200), socket.read_exact(&mut response)).await {
            Ok(result) => {
                result.unwrap();
                break;
            }
            Err(_) => {
                assert!(sent.is_ok() && start.elapsed() < Duration::from_secs(20), "never refused");
            }
        }
    }
    assert_eq!(&response, b"HTTP/1.1 408");
}

#[tokio::test]
async fn unread_responses_do_not_delay_other_clients() {
    let service = start_service().await;
    let mut unread = Vec::new();
    for _ in 0..50 {
        let mut socket = connect(&service, b"").await;
        for _ in 0..20 {
            let _ = socket.write_all(b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n").await;
        }
        unread.push(socket);
    }
    for _ in 0..20 {
        assert_eq!(service.get("/api/v1/budget").await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn responses_to_pipelined_requests_are_in_order() {
    let service = start_service().await;
    let requests = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /nope HTTP/1.1\r\nhost: a\r\n\r\nGET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut socket = connect(&service, requests).await;
    let mut responses = String::new();
    socket.read_to_string(&mut responses).await.unwrap();
    let statuses: Vec<_> =
        responses.match_indices("HTTP/1.1 ").map(|(at, _)| &responses[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "404", "200"], "{responses}");
    assert!(responses.contains("the path /nope does not exist"), "{responses}");
}

#[tokio::test]
async fn malformed_requests_get_the_common_error_envelope() {
    let service = start_service().await;
    for (bytes, status, code) in [
        (&b"NONSENSE\r\n\r\n"[..], "400", "malformed_request"),
        (b"GET /x HTTP/1.1\r\nbad header\r\n\r\n", "400", "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400", "malformed_request"),
    ] {
        let response = read_to_end(connect(&service, bytes).await).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{response}");
        assert!(response.contains(code) && response.contains("\"traceId\":\""), "{response}");
    }
    let headers = (0..150).map(|i| format!("x-{i}: y\r\n")).collect::<Vec<_>>().concat();
    let request = format!("GET /livez HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let response = read_to_end(connect(&service, request.as_bytes()).await).await;
    assert!(response.starts_with("HTTP/1.1 431") && response.contains("headers_too_large"), "{response}");
    // The second request of a connection gets the same response.
    let mut socket = connect(&service, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut first = [0; 15];
    socket.read_exact(&mut first).await.unwrap();
    socket.write_all(b"NONSENSE\r\n\r\n").await.unwrap();
    let response = read_to_end(socket).await;
    assert!(response.contains("HTTP/1.1 400") && response.contains("malformed_request"), "{response}");
}
