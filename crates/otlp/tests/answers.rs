//! What becomes of spans as a collector answers: taken, taken in part, asked for again, refused, or not at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use phase6_otlp::{Counts, Exporter, Otlp, Protocol};
use phase6_telemetry::{Kept, Kind, Sink, Span, SpanId, Status, TraceId};
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
        kind: Kind::Server,
        start: Timestamp::now(),
        duration: Duration::from_millis(1),
        status: Status::Ok,
        kept: Kept::Sampled,
        attributes: vec![],
    }
}

/// A collector that gives these answers, one for each message, and then ends. It tells what it was sent.
async fn collector(answers: Vec<(&'static str, Vec<u8>)>) -> (Otlp, JoinHandle<Vec<(String, Vec<u8>)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp =
        Otlp::new(&format!("http://{}", listener.local_addr().unwrap()), Protocol::HttpProtobuf).unwrap();
    let heard = tokio::spawn(async move {
        let mut heard = vec![];
        for (head, body) in answers {
            let mut connection = BufReader::new(listener.accept().await.unwrap().0);
            let mut asked = String::new();
            while !asked.ends_with("\r\n\r\n") {
                connection.read_line(&mut asked).await.unwrap();
            }
            let asked = asked.to_lowercase();
            let length = asked.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut message = vec![0; length.parse().unwrap()];
            connection.read_exact(&mut message).await.unwrap();
            let answer =
                format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            connection.write_all(&[answer.as_bytes(), &body].concat()).await.unwrap();
            heard.push((asked, message));
        }
        heard
    });
    (otlp, heard)
}

/// Sends three spans and what became of them.
async fn sent(otlp: &Otlp) -> Counts {
    let exporter: Exporter = otlp.exporter("budget", "1.2.3");
    for name in ["a", "b", "c"] {
        exporter.record(&span(name));
    }
    exporter.close().await;
    exporter.record(&span("after the end"));
    exporter.counts()
}

fn names(message: &[u8]) -> Vec<String> {
    let read = ExportTraceServiceRequest::decode(message).unwrap();
    let scopes = read.resource_spans.into_iter().flat_map(|group| group.scope_spans);
    scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
}

#[tokio::test]
async fn a_message_has_all_spans_that_wait_and_the_headers_of_its_kind() {
    let (otlp, heard) = collector(vec![("200 OK", vec![])]).await;
    let counts = sent(&otlp).await;
    assert_eq!(counts, Counts { exported: 3, queue_full: 1, export_failed: 0 });
    let [(head, message)] = &heard.await.unwrap()[..] else { panic!("one message") };
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    for line in ["content-type: application/x-protobuf", "user-agent: phase6/"] {
        assert!(head.contains(line), "{head}");
    }
    assert_eq!(names(message), ["a", "b", "c"]);
}

#[tokio::test]
async fn spans_that_the_collector_takes_not_are_counted_as_lost() {
    let partly = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partly) };
    let (otlp, heard) = collector(vec![("200 OK", answer.encode_to_vec())]).await;
    assert_eq!(sent(&otlp).await, Counts { exported: 1, queue_full: 1, export_failed: 2 });
    heard.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_takes_nothing_back() {
    let (otlp, heard) = collector(vec![("200 OK", vec![0xFF; 32])]).await;
    assert_eq!(sent(&otlp).await, Counts { exported: 3, queue_full: 1, export_failed: 0 });
    heard.await.unwrap();
}

#[tokio::test]
async fn a_message_is_sent_again_where_the_collector_may_take_it_later() {
    let busy = ("503 Service Unavailable\r\nretry-after: 0", vec![]);
    let (otlp, heard) = collector(vec![busy, ("502 Bad Gateway", vec![]), ("200 OK", vec![])]).await;
    assert_eq!(sent(&otlp).await, Counts { exported: 3, queue_full: 1, export_failed: 0 });
    let heard = heard.await.unwrap();
    assert!(heard.iter().all(|(_, message)| names(message) == ["a", "b", "c"]));
}

#[tokio::test]
async fn a_message_is_not_sent_again_where_the_collector_never_takes_it_or_not_in_time() {
    for answer in ["400 Bad Request", "401 Unauthorized", "429 Too Many Requests\r\nretry-after: 60"] {
        let (otlp, heard) = collector(vec![(answer, vec![])]).await;
        assert_eq!(sent(&otlp).await, Counts { exported: 0, queue_full: 1, export_failed: 3 }, "{answer}");
        heard.await.unwrap();
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_spans_and_no_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let exporter = Otlp::new(&endpoint, protocol).unwrap().exporter("test", "1");
        // On this runtime nothing else runs meanwhile: what waits is bounded.
        for _ in 0..10_000 {
            exporter.record(&span("GET /"));
        }
        let counts = exporter.counts();
        assert_eq!((counts.exported, counts.queue_full), (0, 10_000 - 2_048), "{protocol:?}");
        let patience = tokio::time::timeout(Duration::from_millis(50), exporter.close()).await;
        assert!(patience.is_err(), "it is still waited for, by whoever wants to");
    }
}
