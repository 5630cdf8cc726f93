//! Our spans as OpenTelemetry's.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status as Ended, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use phase6_telemetry::{Attribute, Kept, Kind, Span, Status};

/// A span as the library sends it.
pub(crate) fn convert(span: Span, scope: &InstrumentationScope) -> SpanData {
    let since_epoch = u64::try_from(span.start.as_nanosecond()).unwrap_or_default();
    let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(since_epoch);
    let sampled = span.kept == Kept::Sampled;
    let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let mut attributes: Vec<_> =
        span.attributes.into_iter().map(|(name, attribute)| KeyValue::new(name, value(attribute))).collect();
    // Others of its trace are missing then, and who looks at it wonders why.
    match span.kept {
        Kept::Sampled => {}
        Kept::Error => attributes.push(KeyValue::new("phase6.kept", "error")),
        Kept::Slow => attributes.push(KeyValue::new("phase6.kept", "slow")),
    }
    let trace_id = TraceId::from(span.trace_id.get());
    let parent = span.parent_span_id.map_or(SpanId::INVALID, |parent| SpanId::from(parent.get()));
    SpanData {
        span_context: SpanContext::new(
            trace_id,
            SpanId::from(span.span_id.get()),
            flags,
            false,
            TraceState::default(),
        ),
        parent_span_id: parent,
        parent_span_is_remote: span.kind == Kind::Server && span.parent_span_id.is_some(),
        span_kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Internal => SpanKind::Internal,
        },
        name: span.name.into(),
        start_time: start,
        end_time: start + span.duration,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match span.status {
            Status::Ok => Ended::Unset,
            Status::Error => Ended::error(""),
        },
        instrumentation_scope: scope.clone(),
    }
}

fn value(attribute: Attribute) -> Value {
    match attribute {
        Attribute::Text(text) => text.into(),
        Attribute::Number(number) => number.into(),
    }
}
