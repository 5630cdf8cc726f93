//! Spans and where finished ones go.

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

/// Which side of a call a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Makes one.
    Client,
    /// Neither.
    Internal,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should.
    Ok,
    /// It failed.
    Error,
}

/// Why a span was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// Its trace is sampled.
    Sampled,
    /// It failed and errors are kept.
    Error,
    /// It was slow and slow ones are kept.
    Slow,
}

/// A finished span.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// Its own identity.
    pub span_id: SpanId,
    /// The span that caused it.
    pub parent_span_id: Option<SpanId>,
    /// What was done, as a template: `GET /api/v1/budget`.
    pub name: String,
    /// Which side of a call.
    pub kind: Kind,
    /// When it began.
    pub start: Timestamp,
    /// How long it took, in milliseconds.
    #[serde(serialize_with = "as_millis")]
    pub duration: Duration,
    /// How it ended.
    pub status: Status,
    /// Why it was recorded.
    pub kept: Kept,
    /// What else is known of it, under OpenTelemetry's names.
    #[serde(serialize_with = "as_map")]
    pub attributes: Attributes,
}

/// What is known of a span, by name. Names are those of OpenTelemetry's semantic conventions.
pub type Attributes = Vec<(&'static str, Attribute)>;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Attribute {
    /// A word or a name.
    Text(Cow<'static, str>),
    /// A count or a code.
    Number(i64),
}

impl From<&'static str> for Attribute {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<StatusCode> for Attribute {
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

/// Takes finished spans. Must not block and must be bounded.
pub trait Sink: Send + Sync + 'static {
    /// Takes what it needs of one span, or counts it as dropped.
    fn record(&self, span: &Span);
}

/// Keeps the newest spans in memory.
#[derive(Debug)]
pub struct Recorder {
    newest: Mutex<VecDeque<Span>>,
    capacity: usize,
    recorded: AtomicU64,
}

impl Recorder {
    /// Keeps up to `capacity` spans.
    pub fn new(capacity: usize) -> Self {
        Self { newest: Mutex::new(VecDeque::new()), capacity: capacity.max(1), recorded: AtomicU64::new(0) }
    }

    /// The newest spans, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Span> {
        self.newest.lock().iter().rev().take(limit).cloned().collect()
    }

    /// How many spans were recorded since the start.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Keeps a span, in the place of the oldest if there is no other.
    pub fn record(&self, span: Span) {
        self.recorded.fetch_add(1, Ordering::Relaxed);
        let mut newest = self.newest.lock();
        let oldest = if newest.len() == self.capacity { newest.pop_front() } else { None };
        newest.push_back(span);
        // The memory of the oldest is given back when others may go on.
        drop(newest);
        drop(oldest);
    }
}

/// A span that is running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<SpanId>,
    pub(crate) started: Instant,
}

impl Running {
    /// The span of what ends now.
    pub(crate) fn finish(
        &self,
        duration: Duration,
        name: String,
        kind: Kind,
        (status, kept): (Status, Kept),
        attributes: Attributes,
    ) -> Span {
        Span {
            trace_id: self.context.trace_id,
            span_id: self.context.span_id,
            parent_span_id: self.parent,
            name,
            kind,
            start: Timestamp::now().checked_sub(duration).unwrap_or(Timestamp::UNIX_EPOCH),
            duration,
            status,
            kept,
            attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_never_more_than_its_capacity() {
        let recorder = Recorder::new(3);
        for i in 0..10 {
            let context =
                TraceContext { trace_id: TraceId::random(), span_id: SpanId::random(), sampled: true };
            let running = Running { context, parent: None, started: Instant::now() };
            recorder.record(running.finish(
                Duration::ZERO,
                i.to_string(),
                Kind::Internal,
                (Status::Ok, Kept::Sampled),
                vec![],
            ));
        }
        let names: Vec<_> = recorder.newest(10).into_iter().map(|span| span.name).collect();
        assert_eq!(names, ["9", "8", "7"]);
        assert_eq!(recorder.recorded(), 10);
    }
}
