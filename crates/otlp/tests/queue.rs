//! A collector that takes connections and never answers: nobody waits for it, and nothing grows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use jiff::Timestamp;
use phase6_otlp::{Otlp, Protocol};
use phase6_telemetry::{Kept, Kind, Sink, Span, SpanId, Status, TraceId};
use tokio::net::TcpListener;

fn span() -> Span {
    Span {
        trace_id: TraceId::random(),
        span_id: SpanId::random(),
        parent_span_id: None,
        name: "GET /".into(),
        kind: Kind::Server,
        start: Timestamp::now(),
        duration: Duration::from_millis(1),
        status: Status::Ok,
        kept: Kept::Sampled,
        attributes: vec![],
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_spans_and_no_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let exporter = Otlp::new(&endpoint, protocol).unwrap().exporter("test", "1");
        // On this runtime nothing else runs meanwhile: the queue takes what it holds.
        for _ in 0..10_000 {
            exporter.record(&span());
        }
        let counts = exporter.counts();
        assert_eq!((counts.exported, counts.queue_full), (0, 10_000 - 2_048), "{protocol:?}");
        let patience = tokio::time::timeout(Duration::from_millis(50), exporter.close()).await;
        assert!(patience.is_err(), "it is still waited for, by whoever wants to");
    }
}
