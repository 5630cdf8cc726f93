//! Spans, and where finished ones go.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use crate::{SpanId, TraceContext, TraceId};

/// Role of a span in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    /// Handling of an incoming request.
    Server,
    /// An outgoing request.
    Client,
    /// Work without a remote side.
    Internal,
}

/// Result of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanStatus {
    /// The operation succeeded.
    Ok,
    /// The operation failed.
    Error,
}

/// Reason for keeping a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepReason {
    /// The trace is sampled.
    Sampled,
    /// The request failed, and the policy keeps errors (`keepErrors`).
    Error,
    /// The request was slow, and the policy keeps slow requests (`keepSlowerThan`).
    Slow,
}

/// A finished span.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// Trace that the span belongs to.
    pub trace_id: TraceId,
    /// Id of the span.
    pub span_id: SpanId,
    /// Id of the parent span; `None` for the root of a trace.
    pub parent_span_id: Option<SpanId>,
    /// Low-cardinality name, such as `GET /api/v1/budget`.
    pub name: String,
    /// Role of the span in a call.
    pub kind: SpanKind,
    /// Start time.
    pub start: Timestamp,
    /// Duration; serialized in milliseconds.
    #[serde(serialize_with = "as_millis")]
    pub duration: Duration,
    /// Result of the operation.
    pub status: SpanStatus,
    /// Reason for keeping the span.
    pub keep_reason: KeepReason,
    /// Further attributes, named as in OpenTelemetry's semantic conventions.
    #[serde(serialize_with = "as_map")]
    pub attributes: Attributes,
}

/// Attributes of a span by name. Names are those of OpenTelemetry's semantic conventions.
pub type Attributes = Vec<(&'static str, AttributeValue)>;

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AttributeValue {
    /// A string.
    Text(Cow<'static, str>),
    /// An integer.
    Number(i64),
}

impl From<&'static str> for AttributeValue {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<StatusCode> for AttributeValue {
    fn from(status: StatusCode) -> Self {
        Self::Number(status.as_u16().into())
    }
}

fn as_map<S: serde::Serializer>(attributes: &Attributes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(attributes.iter().map(|(name, value)| (name, value)))
}

fn as_millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1e3)
}

/// A destination of finished spans. Must not block, and must bound its memory.
pub trait SpanSink: Send + Sync + 'static {
    /// Takes a span, or drops it and counts it as dropped.
    fn record(&self, span: &Span);
}

/// The newest spans, kept in memory.
#[derive(Debug)]
pub struct RecentSpans {
    spans: Mutex<VecDeque<Span>>,
    capacity: usize,
    recorded: AtomicU64,
}

impl RecentSpans {
    /// Creates a buffer of at most `capacity` spans.
    pub fn new(capacity: usize) -> Self {
        Self { spans: Mutex::new(VecDeque::new()), capacity: capacity.max(1), recorded: AtomicU64::new(0) }
    }

    /// Returns up to `limit` spans, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Span> {
        self.spans.lock().iter().rev().take(limit).cloned().collect()
    }

    /// Returns the number of spans recorded since the start.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Adds a span, and removes the oldest one if the buffer is full.
    pub fn record(&self, span: Span) {
        self.recorded.fetch_add(1, Ordering::Relaxed);
        let mut spans = self.spans.lock();
        let oldest = if spans.len() == self.capacity { spans.pop_front() } else { None };
        spans.push_back(span);
        // Released before the oldest span is freed, so that no other thread waits for the deallocation.
        drop(spans);
        drop(oldest);
    }
}

/// A span that has not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActiveSpan {
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<SpanId>,
    pub(crate) started: Instant,
}

/// Parts of a span that are known when it ends.
#[derive(Debug)]
pub(crate) struct SpanEnd {
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) duration: Duration,
    pub(crate) status: SpanStatus,
    pub(crate) keep_reason: KeepReason,
    pub(crate) attributes: Attributes,
}

impl ActiveSpan {
    /// Returns the finished span. The start time is computed from the current time and the duration.
    pub(crate) fn finish(&self, end: SpanEnd) -> Span {
        let SpanEnd { name, kind, duration, status, keep_reason, attributes } = end;
        Span {
            trace_id: self.context.trace_id,
            span_id: self.context.span_id,
            parent_span_id: self.parent,
            name,
            kind,
            start: Timestamp::now().checked_sub(duration).unwrap_or(Timestamp::UNIX_EPOCH),
            duration,
            status,
            keep_reason,
            attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_spans_up_to_its_capacity() {
        let recent = RecentSpans::new(3);
        for i in 0..10 {
            let context =
                TraceContext { trace_id: TraceId::random(), span_id: SpanId::random(), sampled: true };
            let span = ActiveSpan { context, parent: None, started: Instant::now() };
            recent.record(span.finish(SpanEnd {
                name: i.to_string(),
                kind: SpanKind::Internal,
                duration: Duration::ZERO,
                status: SpanStatus::Ok,
                keep_reason: KeepReason::Sampled,
                attributes: vec![],
            }));
        }
        let names: Vec<_> = recent.newest(10).into_iter().map(|span| span.name).collect();
        assert_eq!(names, ["9", "8", "7"]);
        assert_eq!(recent.recorded(), 10);
    }
}
