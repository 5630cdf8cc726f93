//! Peers of the gateway that are slow, unwell or gone: who is called, for how long, and what is
//! shown of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use phase6_tests::{Gateway, Probes, Upstream, until};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Answers nothing for longer than any test takes.
fn silence() -> Vec<(Duration, Vec<u8>)> {
    vec![(Duration::from_mins(10), vec![])]
}

/// Sends requests from several clients at once.
async fn many(gateway: &Gateway, count: usize) {
    let answers = join_all((0..count).map(|_| gateway.get("/api/v1/budget"))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().status() == 200));
}

/// In the system before this one a readiness that never came was waited for without end.
#[tokio::test]
async fn a_peer_that_never_answers_delays_nobody_and_is_named() {
    let upstream = Upstream::start().await;
    upstream.probes(Probes::Silent);
    upstream.script(silence());
    let gateway = Gateway::before(&upstream).await;
    let asked = Instant::now();
    let status: Value = gateway.get("/system/status").await.unwrap().json().await.unwrap();
    assert_eq!((&status["services"]["budget"], &status["services"]["web"]), (&json!(false), &json!(true)));
    assert!(status["missing"].as_array().unwrap().contains(&json!("budget")), "{status}");
    let shown: Value = gateway.get("/api/v1/system/observability/fleet").await.unwrap().json().await.unwrap();
    let why = shown["missing"]["budget"].as_str().unwrap();
    assert!(why.starts_with("budget did not respond within"), "{why}");
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?} for two answers", asked.elapsed());
}

#[tokio::test]
async fn an_endpoint_that_is_not_ready_gets_nothing_and_its_share_again_when_it_is() {
    let (well, sick) = (Upstream::start().await, Upstream::start().await);
    sick.probes(Probes::NotReady);
    let endpoints = [well.address.to_string(), sick.address.to_string()];
    let gateway = Gateway::start(&endpoints, json!({}), &[]).await;
    until("it is known to be unwell", || async {
        gateway.endpoint(sick.address).await["health"] == "unhealthy"
    })
    .await;
    let before = sick.seen().len();
    many(&gateway, 20).await;
    assert_eq!(sick.seen().len(), before, "an endpoint that is not ready was called");
    sick.probes(Probes::Ready);
    until("it gets its share", || async {
        many(&gateway, 20).await;
        sick.seen().len() > before
    })
    .await;
    assert_eq!(gateway.endpoint(sick.address).await["health"], "healthy");
}

#[tokio::test]
async fn answers_of_a_broken_peer_open_the_breaker_and_answers_about_others_do_not() {
    let upstream = Upstream::start().await;
    let policy = json!({"circuitBreaker": {"minimumCalls": 6, "openFor": "1h"}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    let about_others: [(&str, &[(&str, &str)]); 3] = [
        ("404 Not Found", &[]),
        ("429 Too Many Requests", &[("retry-after", "1")]),
        ("503 Service Unavailable", &[("phase6-fault", "dependency")]),
    ];
    for (status, headers) in about_others {
        upstream.answer(status, headers, "");
        for _ in 0..10 {
            let answer = gateway.get("/api/v1/budget").await.unwrap();
            assert!(status.starts_with(answer.status().as_str()), "{status}");
        }
    }
    assert_eq!(upstream.seen().len(), 30);
    upstream.answer("500 Internal Server Error", &[], "");
    let mut statuses = Vec::new();
    while statuses.last() != Some(&503) {
        assert!(statuses.len() < 60, "never opened: {statuses:?}");
        statuses.push(gateway.get("/api/v1/budget").await.unwrap().status().as_u16());
    }
    let called = upstream.seen().len();
    assert_eq!(called, 30 + statuses.len() - 1, "{statuses:?}");
    for _ in 0..5 {
        assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 503);
    }
    assert_eq!(upstream.seen().len(), called, "it is not called any more");
}

/// A client could else cut a service off for everybody.
#[tokio::test]
async fn a_client_s_own_broken_bodies_are_its_own_fault() {
    let upstream = Upstream::start().await;
    let policy = json!({"circuitBreaker": {"minimumCalls": 6, "openFor": "1h"}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    let head = "POST /api/v1/budget HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let huge = format!("{head}{}", chunk.repeat(40));
    for (bytes, told) in [(format!("{head}zz\r\n"), "HTTP/1.1 400 "), (huge, "HTTP/1.1 413 ")] {
        for _ in 0..10 {
            let answer = gateway.raw(bytes.as_bytes()).await;
            assert!(answer.starts_with(told), "{answer}");
        }
    }
    for _ in 0..10 {
        // Half a body, and gone.
        let mut socket = TcpStream::connect(("127.0.0.1", gateway.port)).await.unwrap();
        socket.write_all(format!("{head}5\r\nhel").as_bytes()).await.unwrap();
        drop(socket);
    }
    until("nothing is in flight", || async { gateway.endpoint(upstream.address).await["inFlight"] == 0 })
        .await;
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 200);
    let shown: Value =
        gateway.get("/api/v1/loadbalance/health?service=budget").await.unwrap().json().await.unwrap();
    let breaker = &shown["health"]["budget"]["circuitBreakers"]["budget"];
    assert_eq!((&breaker["status"], &breaker["failureCount"]), (&json!("closed"), &json!(0)));
}

/// One of four is well. All of the load on it alone would bring it down next, so half of them stay in use; a
/// peer that is gone as a whole is not called at all.
#[tokio::test]
async fn at_most_half_of_the_endpoints_are_left_out_and_a_peer_that_is_gone_is_not_called() {
    let upstreams = join_all((0..4).map(|_| Upstream::start())).await;
    let endpoints: Vec<_> = upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
    let policy = json!({"circuitBreaker": {"minimumCalls": 3, "window": "10m", "openFor": "1h"}});
    let gateway = Gateway::start(&endpoints, policy, &[]).await;
    let open = |count: usize| {
        let gateway = &gateway;
        async move {
            let shown = gateway.budget().await["circuitBreakers"].as_object().unwrap().clone();
            shown.values().filter(|breaker| breaker["status"] == "open").count() == count
        }
    };
    let fail = |count: usize| {
        let (upstreams, gateway) = (&upstreams, &gateway);
        async move {
            upstreams[..count].iter().for_each(|upstream| {
                upstream.answer("500 Internal Server Error", &[], "");
            });
            until("those that fail are known", || async {
                gateway.get("/api/v1/budget").await.unwrap();
                open(count).await
            })
            .await;
        }
    };
    let calls = |requests: usize| {
        let (upstreams, gateway) = (&upstreams, &gateway);
        async move {
            let before: Vec<_> = upstreams.iter().map(|upstream| upstream.seen().len()).collect();
            let mut good = 0;
            for _ in 0..requests {
                good += usize::from(gateway.get("/api/v1/budget").await.unwrap().status() == 200);
            }
            let after = upstreams.iter().map(|upstream| upstream.seen().len());
            (after.zip(before).map(|(after, before)| after - before).collect::<Vec<_>>(), good)
        }
    };
    fail(2).await;
    let (seen, good) = calls(60).await;
    assert_eq!((seen[0], seen[1], good), (0, 0, 60), "{seen:?}");
    fail(3).await;
    let (seen, good) = calls(300).await;
    assert!((75..=225).contains(&good) && seen[3] == good, "{seen:?}");
    assert!(seen.iter().all(|seen| *seen > 10), "each of the last resort has its turn: {seen:?}");
    fail(4).await;
    let (seen, good) = calls(10).await;
    assert_eq!((seen.iter().sum::<usize>(), good), (0, 0), "{seen:?}");
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 503);
}

/// A request that cannot be sent does no harm, and costs nobody an answer.
#[tokio::test]
async fn endpoints_that_nobody_listens_at_cost_no_request_however_many_they_are() {
    let upstream = Upstream::start().await;
    // Nothing listens on ports 1 to 3.
    let mut endpoints: Vec<String> = (1..=3).map(|port| format!("127.0.0.1:{port}")).collect();
    endpoints.push(upstream.address.to_string());
    let policy = json!({"circuitBreaker": {"minimumCalls": 3, "openFor": "1h"}});
    let gateway = Gateway::start(&endpoints, policy, &[]).await;
    until("they are known to be dead", || async {
        let shown = gateway.budget().await;
        let endpoints = shown["endpoints"].as_array().unwrap();
        endpoints.iter().filter(|endpoint| endpoint["health"] == "unhealthy").count() == 3
    })
    .await;
    for i in 0..200 {
        let answer = gateway.http.post(gateway.url("/api/v1/budget")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "request {i}");
    }
}

#[tokio::test]
async fn six_failures_are_enough_where_six_are_asked_for() {
    let upstream = Upstream::start().await;
    upstream.answer("500 Internal Server Error", &[], "");
    let policy = json!({"circuitBreaker": {"minimumCalls": 6, "openFor": "1h"}});
    let gateway = Gateway::start(&[upstream.address.to_string()], policy, &[]).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 500);
    }
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 503);
    assert_eq!(upstream.seen().len(), 6);
}

#[tokio::test]
async fn a_call_that_took_too_long_is_given_up_behind_the_gateway_too() {
    let upstream = Upstream::start().await;
    upstream.script(silence());
    let gateway =
        Gateway::start(&[upstream.address.to_string()], json!({}), &[("UPSTREAM_DEADLINE_MS", "200")]).await;
    assert_eq!(gateway.get("/api/v1/budget").await.unwrap().status(), 504);
    until("the upstream sees it end", || async { upstream.given_up() == 1 }).await;
    until("nothing is in flight", || async { gateway.endpoint(upstream.address).await["inFlight"] == 0 })
        .await;
}

#[tokio::test]
async fn a_call_whose_client_has_gone_is_given_up_too() {
    let upstream = Upstream::start().await;
    upstream.script(silence());
    let gateway = Gateway::before(&upstream).await;
    let client = tokio::spawn(gateway.http.get(gateway.url("/api/v1/budget")).send());
    until("it is under way", || async { upstream.seen().len() == 1 }).await;
    client.abort();
    until("the upstream sees it end", || async { upstream.given_up() == 1 }).await;
    until("nothing is in flight", || async { gateway.endpoint(upstream.address).await["inFlight"] == 0 })
        .await;
}

#[tokio::test]
async fn a_probe_without_an_answer_has_no_second_beside_it_and_holds_up_no_other() {
    let (well, silent) = (Upstream::start().await, Upstream::start().await);
    silent.probes(Probes::Silent);
    let endpoints = [well.address.to_string(), silent.address.to_string()];
    let gateway = Gateway::start(&endpoints, json!({}), &[]).await;
    until("the other one is known to be well", || async {
        gateway.endpoint(well.address).await["health"] == "healthy"
    })
    .await;
    until("three rounds have passed", || async { silent.probed().0 >= 3 }).await;
    assert_eq!(silent.probed().1, 1, "probes beside one another");
    assert_eq!(gateway.endpoint(well.address).await["health"], "healthy");
}
