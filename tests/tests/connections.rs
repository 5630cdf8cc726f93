//! Connections that do not do what they should: silent, slow, too many.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::{Duration, Instant};

use phase6_tests::{Served, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn served() -> Served {
    Served::start("budget", &[]).await
}

/// A connection on which these bytes have been sent.
async fn open(served: &Served, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    socket.write_all(first).await.unwrap();
    socket
}

async fn metric(served: &Served, name: &str) -> f64 {
    let answer = served.http.get(format!("http://127.0.0.1:{}/metrics", served.port)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Reads until the server closes; what it said.
async fn closed(mut socket: TcpStream) -> String {
    let mut said = Vec::new();
    let _ = socket.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// `axum::serve` keeps all of these open for ever.
#[tokio::test]
async fn slow_connections_are_closed_and_nobody_else_notices() {
    let served = served().await;
    let kinds: [&[u8]; 4] = [
        b"",
        b"GET /read",
        b"GET /readyz HTTP/1.1\r\nhost: a\r\nx-slow",
        b"POST /api/v1/providers/burst HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ];
    let started = Instant::now();
    let mut sockets = Vec::new();
    for i in 0..2_000 {
        sockets.push(open(&served, kinds[i % 4]).await);
    }
    let waiting = tokio::spawn(futures_util::future::join_all(sockets.into_iter().map(closed)));
    let mut slowest = Duration::ZERO;
    while !waiting.is_finished() {
        let asked = Instant::now();
        assert_eq!(served.get("/api/v1/budget").await.unwrap().0, 200, "others are served");
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let said = waiting.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let slow_bodies: Vec<_> = said.iter().skip(3).step_by(4).collect();
    assert!(slow_bodies.iter().all(|said| said.contains("body_too_slow")), "{:?}", slow_bodies.first());
    assert!(metric(&served, "phase6_connections_timed_out_total").await >= 1_500.0);
    until("only ours is open", || async { metric(&served, "phase6_connections_open").await <= 2.0 }).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_refused() {
    let served = served().await;
    let head = b"POST /api/v1/budget/can-afford HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n";
    let mut socket = open(&served, head).await;
    let started = Instant::now();
    let mut answer = [0; 12];
    loop {
        let trickle = socket.write_all(b" ").await;
        match tokio::time::timeout(Duration::from_millis(200), socket.read_exact(&mut answer)).await {
            Ok(result) => {
                result.unwrap();
                break;
            }
            Err(_) => {
                assert!(trickle.is_ok() && started.elapsed() < Duration::from_secs(20), "never refused");
            }
        }
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn an_answer_that_is_not_read_does_not_hold_others_up() {
    let served = served().await;
    // Asks for much and reads nothing.
    let mut greedy = Vec::new();
    for _ in 0..50 {
        let mut socket = open(&served, b"").await;
        for _ in 0..20 {
            let _ = socket.write_all(b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n").await;
        }
        greedy.push(socket);
    }
    for _ in 0..20 {
        assert_eq!(served.get("/api/v1/budget").await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn requests_can_be_pipelined_and_are_answered_in_order() {
    let served = served().await;
    let mut socket = open(&served, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /nope HTTP/1.1\r\nhost: a\r\n\r\nGET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    let mut said = String::new();
    socket.read_to_string(&mut said).await.unwrap();
    let statuses: Vec<_> = said.match_indices("HTTP/1.1 ").map(|(at, _)| &said[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "404", "200"], "{said}");
    assert!(said.contains("the path /nope does not exist"), "{said}");
}

#[tokio::test]
async fn what_is_no_http_is_answered_in_the_one_envelope() {
    let served = served().await;
    for (bytes, status, code) in [
        (&b"NONSENSE\r\n\r\n"[..], "400", "malformed_request"),
        (b"GET /x HTTP/1.1\r\nbad header\r\n\r\n", "400", "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400", "malformed_request"),
    ] {
        let said = closed(open(&served, bytes).await).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
        assert!(said.contains(code) && said.contains("\"traceId\":\""), "{said}");
    }
    let many = (0..150).map(|i| format!("x-{i}: y\r\n")).collect::<Vec<_>>().concat();
    let said =
        closed(open(&served, format!("GET /livez HTTP/1.1\r\nhost: a\r\n{many}\r\n").as_bytes()).await).await;
    assert!(said.starts_with("HTTP/1.1 431") && said.contains("headers_too_large"), "{said}");
    // A connection that was used before answers the same way.
    let mut socket = open(&served, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut first = [0; 15];
    socket.read_exact(&mut first).await.unwrap();
    socket.write_all(b"NONSENSE\r\n\r\n").await.unwrap();
    let said = closed(socket).await;
    assert!(said.contains("HTTP/1.1 400") && said.contains("malformed_request"), "{said}");
}
