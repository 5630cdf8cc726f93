//! Fate of exported spans by the collector's response: accepted, accepted in part, retried, rejected, or
//! none.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use phase6_otlp::{Collector, ExportCounts, Exporter, Protocol};
use phase6_telemetry::{KeepReason, Span, SpanId, SpanKind, SpanSink, SpanStatus, TraceId};
use prost::Message;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};

fn span(name: &str) -> Span {
    Span {
        trace_id: TraceId::random(),
        span_id: SpanId::random(),
        parent_span_id: None,
        name: name.to_owned(),
        kind: SpanKind::Server,
        start: Timestamp::now(),
        duration: Duration::from_millis(1),
        status: SpanStatus::Ok,
        keep_reason: KeepReason::Sampled,
        attributes: vec![],
    }
}

/// A response of the fake collector: the status line's text after the version, with any headers, and the
/// body.
struct Response {
    head: &'static str,
    body: Vec<u8>,
}

impl Response {
    fn empty(head: &'static str) -> Self {
        Self { head, body: vec![] }
    }
}

/// A request that the fake collector received.
struct Received {
    /// Request line and headers, in lower case.
    head: String,
    body: Vec<u8>,
}

/// Starts a fake collector that gives one response per request and then stops. The task returns the requests.
async fn fake_collector(responses: Vec<Response>) -> (Collector, JoinHandle<Vec<Received>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::new(&endpoint, Protocol::HttpProtobuf).unwrap();
    let requests = tokio::spawn(async move {
        let mut requests = vec![];
        for Response { head, body } in responses {
            let mut connection = BufReader::new(listener.accept().await.unwrap().0);
            let mut request_head = String::new();
            while !request_head.ends_with("\r\n\r\n") {
                connection.read_line(&mut request_head).await.unwrap();
            }
            let request_head = request_head.to_lowercase();
            let length = request_head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut request_body = vec![0; length.parse().unwrap()];
            connection.read_exact(&mut request_body).await.unwrap();
            let response =
                format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            connection.write_all(&[response.as_bytes(), &body].concat()).await.unwrap();
            requests.push(Received { head: request_head, body: request_body });
        }
        requests
    });
    (collector, requests)
}

/// Exports three spans, and a fourth one after closing the exporter, and returns the counts.
async fn export_three_spans(collector: &Collector) -> ExportCounts {
    let exporter: Exporter = collector.start_exporter("budget", "1.2.3");
    for name in ["a", "b", "c"] {
        exporter.record(&span(name));
    }
    exporter.close().await;
    exporter.record(&span("after closing"));
    exporter.counts()
}

fn span_names(message: &[u8]) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(message).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource_spans| resource_spans.scope_spans);
    scopes.flat_map(|scope_spans| scope_spans.spans).map(|span| span.name).collect()
}

#[tokio::test]
async fn a_message_holds_all_queued_spans_and_the_headers_of_otlp() {
    let (collector, requests) = fake_collector(vec![Response::empty("200 OK")]).await;
    let counts = export_three_spans(&collector).await;
    assert_eq!(counts, ExportCounts { exported: 3, queue_full: 1, export_failed: 0 });
    let [Received { head, body }] = &requests.await.unwrap()[..] else { panic!("one message") };
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    for line in ["content-type: application/x-protobuf", "user-agent: phase6/"] {
        assert!(head.contains(line), "{head}");
    }
    assert_eq!(span_names(body), ["a", "b", "c"]);
}

#[tokio::test]
async fn spans_that_the_collector_rejects_count_as_failed() {
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() };
    let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (collector, requests) = fake_collector(vec![Response { head: "200 OK", body }]).await;
    let counts = export_three_spans(&collector).await;
    assert_eq!(counts, ExportCounts { exported: 1, queue_full: 1, export_failed: 2 });
    requests.await.unwrap();
}

#[tokio::test]
async fn a_success_with_an_undecodable_body_counts_as_exported() {
    let (collector, requests) = fake_collector(vec![Response { head: "200 OK", body: vec![0xFF; 32] }]).await;
    let counts = export_three_spans(&collector).await;
    assert_eq!(counts, ExportCounts { exported: 3, queue_full: 1, export_failed: 0 });
    requests.await.unwrap();
}

#[tokio::test]
async fn a_message_is_retried_after_a_retryable_status() {
    let responses = ["503 Service Unavailable\r\nretry-after: 0", "502 Bad Gateway", "200 OK"];
    let (collector, requests) = fake_collector(responses.map(Response::empty).into()).await;
    let counts = export_three_spans(&collector).await;
    assert_eq!(counts, ExportCounts { exported: 3, queue_full: 1, export_failed: 0 });
    let requests = requests.await.unwrap();
    assert!(requests.iter().all(|request| span_names(&request.body) == ["a", "b", "c"]));
}

#[tokio::test]
async fn a_message_is_not_retried_after_a_permanent_error_or_past_its_time_limit() {
    for head in ["400 Bad Request", "401 Unauthorized", "429 Too Many Requests\r\nretry-after: 60"] {
        let (collector, requests) = fake_collector(vec![Response::empty(head)]).await;
        let counts = export_three_spans(&collector).await;
        assert_eq!(counts, ExportCounts { exported: 0, queue_full: 1, export_failed: 3 }, "{head}");
        requests.await.unwrap();
    }
}

#[tokio::test]
async fn an_unresponsive_collector_fills_the_queue_but_never_blocks_recording() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let exporter = Collector::new(&endpoint, protocol).unwrap().start_exporter("test", "1");
        // The export task cannot run meanwhile: the test runtime has one thread, and this loop does not
        // await.
        for _ in 0..10_000 {
            exporter.record(&span("GET /"));
        }
        let counts = exporter.counts();
        assert_eq!((counts.exported, counts.queue_full), (0, 10_000 - 2_048), "{protocol:?}");
        let closing = tokio::time::timeout(Duration::from_millis(50), exporter.close()).await;
        assert!(closing.is_err(), "closing waits for the collector until its caller stops waiting");
    }
}
