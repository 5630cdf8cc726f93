//! Spans on their way to a real collector.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::HashSet, time::Instant};

use phase6_tests::{Collector, Fleet, Heard, Upstream, until};
use serde_json::Value;

/// A gateway and a service behind it, of which this share of requests is sampled.
fn fleet(rate: f64) -> String {
    let document = |name: &str| {
        format!(
            "apiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\nmetadata: {{name: {name}}}\nspec:\n  \
             service: {name}\n  tracing: {{samplingRate: {rate}}}\n"
        )
    };
    format!("{}---\n{}", document("web"), document("budget"))
}

/// Waits for so many spans.
async fn heard(collector: &Collector, count: usize) -> Vec<Heard> {
    until("the collector hears of it", || async { collector.heard().len() >= count }).await;
    collector.heard()
}

/// The only span of a service and kind; 2 is a server's, 3 a client's.
fn only<'a>(spans: &'a [Heard], service: &str, kind: u8) -> &'a Heard {
    let wanted = |heard: &&Heard| heard.resource["service.name"] == service && heard.span["kind"] == kind;
    let found: Vec<_> = spans.iter().filter(wanted).collect();
    assert_eq!(found.len(), 1, "{service} {kind}: {spans:?}");
    found[0]
}

#[tokio::test]
async fn a_trace_over_two_services_reaches_the_collector_whole_over_http_and_over_grpc() {
    let collector = Collector::start();
    for (endpoint, protocol, compression) in [
        (collector.over_http(), "http/protobuf", "none"),
        (collector.over_http(), "http/protobuf", "gzip"),
        (collector.over_grpc(), "grpc", "none"),
        (collector.over_grpc(), "grpc", "gzip"),
    ] {
        let before = collector.heard().len();
        let settings = [("OTEL_EXPORTER_OTLP_COMPRESSION", compression)];
        let fleet = Fleet::with(&fleet(1.0), &["--otlp", &endpoint, "--otlp-protocol", protocol], &settings);
        let (status, _) = fleet.get("web", "/api/v1/budget").await;
        assert_eq!(status, 200);
        let spans = heard(&collector, before + 3).await.split_off(before);

        let (edge, call, behind) =
            (only(&spans, "web", 2), only(&spans, "web", 3), only(&spans, "budget", 2));
        for heard in [call, behind] {
            assert_eq!(heard.span["traceId"], edge.span["traceId"], "{protocol}: {spans:?}");
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

        // What was finished a moment before the end is sent before it.
        assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
        assert_eq!(fleet.stop(), Some(0));
        assert_eq!(collector.heard().len(), before + 4, "{protocol}");
    }
}

#[tokio::test]
async fn without_a_collector_everything_is_answered_and_what_was_lost_is_counted_until_it_is_back() {
    let mut collector = Collector::start();
    let fleet = Fleet::with(&fleet(1.0), &["--only", "budget", "--otlp", &collector.over_http()], &[]);
    collector.kill();
    let ask = async || assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    let series = async |name: &str| -> f64 {
        let Value::String(text) = fleet.get("budget", "/metrics").await.1 else { panic!("no metrics") };
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter(|(line, _)| line.starts_with(name)).map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    };
    for _ in 0..20 {
        ask().await;
    }
    until("what was lost is counted", || async { series("phase6_spans_dropped_total").await >= 20.0 }).await;
    assert!(series("phase6_spans_exported_total").await == 0.0);
    collector.revive();
    until("spans arrive again", || async {
        ask().await;
        !collector.heard().is_empty()
    })
    .await;
    until("and that is counted", || async { series("phase6_spans_exported_total").await >= 1.0 }).await;
    let told = fleet.program.errors();
    assert_eq!(told.matches("failed to export spans").count(), 1, "{told}");
    assert_eq!(told.matches("span export recovered").count(), 1, "{told}");
}

#[tokio::test]
async fn a_flood_of_requests_that_claim_to_be_sampled_is_exported_at_the_configured_rate() {
    const REQUESTS: usize = 4_000;
    let collector = Collector::start();
    let over_grpc = ["--only", "budget", "--otlp", &collector.over_grpc(), "--otlp-protocol", "grpc"];
    let fleet = Fleet::with(&fleet(0.5), &over_grpc, &[]);
    let http = reqwest::Client::new();
    let url = fleet.url("budget", "/api/v1/budget");
    let flood = (0..8).map(|lane| {
        let (http, url) = (http.clone(), url.clone());
        tokio::spawn(async move {
            for i in 0..REQUESTS / 8 {
                let traceparent = format!("00-{:032x}-00000000000000aa-01", lane * REQUESTS + i + 1);
                let answer = http.get(&url).header("traceparent", traceparent).send().await.unwrap();
                assert_eq!(answer.status(), 200);
            }
        })
    });
    let began = Instant::now();
    for lane in flood.collect::<Vec<_>>() {
        lane.await.unwrap();
    }
    println!("{REQUESTS} requests in {:?}", began.elapsed());
    assert_eq!(fleet.stop(), Some(0));
    let spans = collector.heard();
    let traces: HashSet<_> = spans.iter().map(|heard| heard.span["traceId"].to_string()).collect();
    assert_eq!(traces.len(), spans.len(), "each is sent once");
    assert!((REQUESTS * 9 / 20..=REQUESTS * 11 / 20).contains(&spans.len()), "{} of {REQUESTS}", spans.len());
}

#[tokio::test]
async fn a_collector_that_wants_to_know_who_sends_is_shown_a_header_that_no_log_shows() {
    let upstream = Upstream::start().await;
    upstream.answer("401 Unauthorized", &[], "");
    let endpoint = format!("http://{}", upstream.address);
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer geheim"),
        ("RUST_LOG", "debug"),
    ];
    let fleet = Fleet::with(&fleet(1.0), &["--only", "budget"], &settings);
    assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    until("it was shown", || async {
        let seen = upstream.seen().join("\n").to_lowercase();
        seen.contains("post /v1/traces ") && seen.contains("authorization: bearer geheim")
    })
    .await;
    until("the refusal is told", || async { fleet.program.errors().contains("failed to export spans") })
        .await;
    assert!(!fleet.program.errors().contains("geheim"), "{}", fleet.program.errors());
}
