//! Export of spans to a real collector.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::HashSet, time::Instant};

use phase6_tests::{Collector, Fleet, ReceivedSpan, Upstream, wait_until};
use serde_json::Value;

/// Kinds of spans in OTLP.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;

/// Returns the manifests of a gateway and a service behind it, with this sampling rate.
fn manifests(rate: f64) -> String {
    let manifest = |name: &str| {
        format!(
            "apiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\nmetadata: {{name: {name}}}\nspec:\n  \
             service: {name}\n  tracing: {{samplingRate: {rate}}}\n"
        )
    };
    format!("{}---\n{}", manifest("web"), manifest("budget"))
}

/// Waits until the collector has received `count` spans, and returns all that it has.
async fn wait_for_spans(collector: &Collector, count: usize) -> Vec<ReceivedSpan> {
    wait_until("the collector has the spans", || async { collector.spans().len() >= count }).await;
    collector.spans()
}

/// Returns the only span of a service with this kind.
fn only<'a>(spans: &'a [ReceivedSpan], service: &str, kind: u8) -> &'a ReceivedSpan {
    let matches = |received: &&ReceivedSpan| {
        received.resource["service.name"] == service && received.span["kind"] == kind
    };
    let found: Vec<_> = spans.iter().filter(matches).collect();
    assert_eq!(found.len(), 1, "{service} {kind}: {spans:?}");
    found[0]
}

#[tokio::test]
#[ignore = "needs the collector: run by cargo xtask test"]
async fn a_trace_across_two_services_reaches_the_collector_over_http_and_over_grpc() {
    let collector = Collector::start();
    for (endpoint, protocol, compression) in [
        (collector.http_endpoint(), "http/protobuf", "none"),
        (collector.http_endpoint(), "http/protobuf", "gzip"),
        (collector.grpc_endpoint(), "grpc", "none"),
        (collector.grpc_endpoint(), "grpc", "gzip"),
    ] {
        let before = collector.spans().len();
        let environment = [("OTEL_EXPORTER_OTLP_COMPRESSION", compression)];
        let arguments = ["--otlp", &endpoint, "--otlp-protocol", protocol];
        let fleet = Fleet::with(&manifests(1.0), &arguments, &environment);
        let (status, _) = fleet.get("web", "/api/v1/budget").await;
        assert_eq!(status, 200);
        let spans = wait_for_spans(&collector, before + 3).await.split_off(before);

        let (edge, call, behind) =
            (only(&spans, "web", SERVER), only(&spans, "web", CLIENT), only(&spans, "budget", SERVER));
        for received in [call, behind] {
            assert_eq!(received.span["traceId"], edge.span["traceId"], "{protocol}: {spans:?}");
        }
        assert_eq!(edge.span["parentSpanId"].as_str().unwrap_or_default(), "");
        assert_eq!(call.span["parentSpanId"], edge.span["spanId"]);
        assert_eq!(behind.span["parentSpanId"], call.span["spanId"]);
        assert_eq!(behind.span["name"], "GET /api/v1/budget");
        assert_eq!(behind.attribute("http.route"), "/api/v1/budget");
        assert_eq!(behind.attribute("url.path"), "/api/v1/budget");
        assert_eq!(behind.attribute("http.response.status_code"), "200");
        assert_eq!(call.attribute("service.peer.name"), "budget");
        assert_eq!(behind.resource["service.namespace"], "phase6");
        assert!(behind.resource["service.version"].is_string());
        let nanos = |name: &str| behind.span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(nanos("startTimeUnixNano") < nanos("endTimeUnixNano"));

        // Spans that end shortly before the shutdown are exported during it.
        assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
        assert_eq!(fleet.stop(), Some(0));
        assert_eq!(collector.spans().len(), before + 4, "{protocol}");
    }
}

#[tokio::test]
#[ignore = "needs the collector: run by cargo xtask test"]
async fn while_the_collector_is_down_requests_succeed_and_dropped_spans_are_counted() {
    let mut collector = Collector::start();
    let arguments = ["--only", "budget", "--otlp", &collector.http_endpoint()];
    let fleet = Fleet::with(&manifests(1.0), &arguments, &[]);
    collector.kill();
    let send = async || assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    let series = async |name: &str| -> f64 {
        let Value::String(text) = fleet.get("budget", "/metrics").await.1 else { panic!("no metrics") };
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter(|(line, _)| line.starts_with(name)).map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    };
    for _ in 0..20 {
        send().await;
    }
    wait_until("the dropped spans are counted", || async {
        series("phase6_spans_dropped_total").await >= 20.0
    })
    .await;
    assert!(series("phase6_spans_exported_total").await == 0.0);
    collector.restart();
    wait_until("spans arrive again", || async {
        send().await;
        !collector.spans().is_empty()
    })
    .await;
    wait_until("exported spans are counted", || async { series("phase6_spans_exported_total").await >= 1.0 })
        .await;
    let log = fleet.program.errors();
    assert_eq!(log.matches("failed to export spans").count(), 1, "{log}");
    assert_eq!(log.matches("span export recovered").count(), 1, "{log}");
}

#[tokio::test]
#[ignore = "needs the collector: run by cargo xtask test"]
async fn requests_that_claim_to_be_sampled_are_sampled_at_the_configured_rate() {
    const REQUESTS: usize = 4_000;
    let collector = Collector::start();
    let over_grpc = ["--only", "budget", "--otlp", &collector.grpc_endpoint(), "--otlp-protocol", "grpc"];
    let fleet = Fleet::with(&manifests(0.5), &over_grpc, &[]);
    let http = reqwest::Client::new();
    let url = fleet.url("budget", "/api/v1/budget");
    let clients = (0..8).map(|client| {
        let (http, url) = (http.clone(), url.clone());
        tokio::spawn(async move {
            for i in 0..REQUESTS / 8 {
                let traceparent = format!("00-{:032x}-00000000000000aa-01", client * REQUESTS + i + 1);
                let response = http.get(&url).header("traceparent", traceparent).send().await.unwrap();
                assert_eq!(response.status(), 200);
            }
        })
    });
    let start = Instant::now();
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    println!("{REQUESTS} requests in {:?}", start.elapsed());
    assert_eq!(fleet.stop(), Some(0));
    let spans = collector.spans();
    let traces: HashSet<_> = spans.iter().map(|received| received.span["traceId"].to_string()).collect();
    assert_eq!(traces.len(), spans.len(), "a span was exported twice");
    assert!((REQUESTS * 9 / 20..=REQUESTS * 11 / 20).contains(&spans.len()), "{} of {REQUESTS}", spans.len());
}

#[tokio::test]
async fn configured_headers_are_sent_to_the_collector_and_never_logged() {
    let upstream = Upstream::start().await;
    upstream.respond("401 Unauthorized", &[], "");
    let endpoint = format!("http://{}", upstream.address);
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer hunter2"),
        ("RUST_LOG", "debug"),
    ];
    let fleet = Fleet::with(&manifests(1.0), &["--only", "budget"], &environment);
    assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    wait_until("the collector receives the header", || async {
        let requests = upstream.requests().join("\n").to_lowercase();
        requests.contains("post /v1/traces ") && requests.contains("authorization: bearer hunter2")
    })
    .await;
    wait_until("the refused export is logged", || async {
        fleet.program.errors().contains("failed to export spans")
    })
    .await;
    assert!(!fleet.program.errors().contains("hunter2"), "{}", fleet.program.errors());
}
