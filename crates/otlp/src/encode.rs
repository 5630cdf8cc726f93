//! Encoding of spans as OTLP protobuf.
//!
//! A span is encoded once, when it ends, while its data is still in the processor's caches. OpenTelemetry's
//! SDK would convert it into its own span, then into a message, then into bytes, with about thirty
//! allocations per span: more than a sampled request may cost. Parts that occur once per message are left to
//! OpenTelemetry's own types, and a property test decodes the result with them.

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry_proto::{
    tonic::{
        common::v1::InstrumentationScope,
        resource::v1::Resource as ResourceMessage,
        trace::v1::{
            ResourceSpans, ScopeSpans, SpanFlags, span::SpanKind as OtlpSpanKind, status::StatusCode,
        },
    },
    transform::common::tonic::ResourceAttributesWithSchema,
};
use opentelemetry_sdk::Resource;
use phase6_telemetry::{AttributeValue, KeepReason, Span, SpanKind, SpanStatus};
use prost::Message;

use crate::protobuf::{LEN_DELIMITED, PutProtobuf, len_delimited_size, varint_size};

/// Field numbers of OTLP's `trace.proto`, `common.proto` and `trace_service.proto`.
mod field {
    pub(super) const REQUEST_RESOURCE_SPANS: u64 = 1;
    pub(super) const RESOURCE_SPANS_SCOPE_SPANS: u64 = 2;
    pub(super) const SCOPE_SPANS_SPANS: u64 = 2;
    pub(super) const SPAN_TRACE_ID: u64 = 1;
    pub(super) const SPAN_SPAN_ID: u64 = 2;
    pub(super) const SPAN_PARENT_SPAN_ID: u64 = 4;
    pub(super) const SPAN_NAME: u64 = 5;
    pub(super) const SPAN_KIND: u64 = 6;
    pub(super) const SPAN_START_TIME: u64 = 7;
    pub(super) const SPAN_END_TIME: u64 = 8;
    pub(super) const SPAN_ATTRIBUTES: u64 = 9;
    pub(super) const SPAN_STATUS: u64 = 15;
    pub(super) const SPAN_FLAGS: u64 = 16;
    pub(super) const STATUS_CODE: u64 = 3;
    pub(super) const KEY_VALUE_KEY: u64 = 1;
    pub(super) const KEY_VALUE_VALUE: u64 = 2;
    pub(super) const ANY_VALUE_STRING: u64 = 1;
    pub(super) const ANY_VALUE_INT: u64 = 3;
}

/// Attribute with the reason for which an unsampled span was kept. Other spans of its trace are missing then;
/// the attribute explains the incomplete trace.
const KEEP_REASON: &str = "phase6.keep_reason";

/// The parts of a message around its spans: the resource and the instrumentation scope of a service, encoded.
pub(crate) struct Envelope {
    /// Fields of `ResourceSpans` before its scopes.
    resource: Vec<u8>,
    /// Fields of `ScopeSpans` before its spans.
    scope: Vec<u8>,
}

impl Envelope {
    pub(crate) fn new(resource: &Resource, version: &str) -> Self {
        let attributes = ResourceAttributesWithSchema::from(resource);
        let resource = ResourceMessage { attributes: attributes.attributes.0, ..ResourceMessage::default() };
        let scope = InstrumentationScope {
            name: "phase6".to_owned(),
            version: version.to_owned(),
            ..InstrumentationScope::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![],
            schema_url: attributes.schema_url.unwrap_or_default(),
        };
        let scope_spans = ScopeSpans { scope: Some(scope), spans: vec![], schema_url: String::new() };
        Self { resource: resource_spans.encode_to_vec(), scope: scope_spans.encode_to_vec() }
    }

    /// Returns a complete `ExportTraceServiceRequest` with spans encoded by [`encode_span`]. The message
    /// occupies `buffer` until it is dropped.
    pub(crate) fn message(&self, encoded_spans: &[u8], buffer: &mut BytesMut) -> Bytes {
        let scope_len = self.scope.len() + encoded_spans.len();
        let resource_len = self.resource.len() + len_delimited_size(scope_len);
        buffer.clear();
        buffer.reserve(len_delimited_size(resource_len));
        buffer.put_len_prefix(field::REQUEST_RESOURCE_SPANS, resource_len);
        buffer.put_slice(&self.resource);
        buffer.put_len_prefix(field::RESOURCE_SPANS_SCOPE_SPANS, scope_len);
        buffer.put_slice(&self.scope);
        buffer.put_slice(encoded_spans);
        buffer.split().freeze()
    }
}

/// Appends a span as an element of `ScopeSpans.spans`.
pub(crate) fn encode_span(span: &Span, out: &mut Vec<u8>) {
    out.put_tag(field::SCOPE_SPANS_SPANS, LEN_DELIMITED);
    // The length is known only afterwards. Nearly all spans have a length of two bytes, which are reserved;
    // for others the encoded fields are moved.
    let length_at = out.len();
    out.extend([0; 2]);
    let fields_at = out.len();
    encode_fields(span, out);
    let length = out.len() - fields_at;
    match length {
        0x80..0x4000 => {
            out[length_at..fields_at].copy_from_slice(&[length as u8 | 0x80, (length >> 7) as u8]);
        }
        _ => {
            let mut encoded_length = Vec::with_capacity(varint_size(length as u64));
            encoded_length.put_varint(length as u64);
            out.splice(length_at..fields_at, encoded_length);
        }
    }
}

fn encode_fields(span: &Span, out: &mut Vec<u8>) {
    out.put_bytes_field(field::SPAN_TRACE_ID, &span.trace_id.get().to_be_bytes());
    out.put_bytes_field(field::SPAN_SPAN_ID, &span.span_id.get().to_be_bytes());
    if let Some(parent) = span.parent_span_id {
        out.put_bytes_field(field::SPAN_PARENT_SPAN_ID, &parent.get().to_be_bytes());
    }
    out.put_bytes_field(field::SPAN_NAME, span.name.as_bytes());
    let kind = match span.kind {
        SpanKind::Server => OtlpSpanKind::Server,
        SpanKind::Client => OtlpSpanKind::Client,
        SpanKind::Internal => OtlpSpanKind::Internal,
    };
    out.put_varint_field(field::SPAN_KIND, kind as u64);
    let start_ns = u64::try_from(span.start.as_nanosecond()).unwrap_or_default();
    let duration_ns = u64::try_from(span.duration.as_nanos()).unwrap_or(u64::MAX);
    out.put_fixed64_field(field::SPAN_START_TIME, start_ns);
    out.put_fixed64_field(field::SPAN_END_TIME, start_ns.saturating_add(duration_ns));
    for (name, value) in &span.attributes {
        encode_attribute(out, name, value);
    }
    match span.keep_reason {
        KeepReason::Sampled => {}
        KeepReason::Error => encode_attribute(out, KEEP_REASON, &AttributeValue::from("error")),
        KeepReason::Slow => encode_attribute(out, KEEP_REASON, &AttributeValue::from("slow")),
    }
    if span.status == SpanStatus::Error {
        let code = StatusCode::Error as u64;
        out.put_len_prefix(field::SPAN_STATUS, 1 + varint_size(code));
        out.put_varint_field(field::STATUS_CODE, code);
    }
    out.put_fixed32_field(field::SPAN_FLAGS, flags(span));
}

/// Returns the flags of a span: the sampled flag of its trace, and the known location of its parent.
fn flags(span: &Span) -> u32 {
    let sampled = u32::from(span.keep_reason == KeepReason::Sampled);
    let parent_is_remote = span.kind == SpanKind::Server && span.parent_span_id.is_some();
    let remote = if parent_is_remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    sampled | SpanFlags::ContextHasIsRemoteMask as u32 | remote
}

fn encode_attribute(out: &mut Vec<u8>, name: &str, value: &AttributeValue) {
    let value_len = match value {
        AttributeValue::Text(text) => len_delimited_size(text.len()),
        AttributeValue::Number(number) => 1 + varint_size(number.cast_unsigned()),
    };
    out.put_len_prefix(
        field::SPAN_ATTRIBUTES,
        len_delimited_size(name.len()) + len_delimited_size(value_len),
    );
    out.put_bytes_field(field::KEY_VALUE_KEY, name.as_bytes());
    out.put_len_prefix(field::KEY_VALUE_VALUE, value_len);
    match value {
        AttributeValue::Text(text) => out.put_bytes_field(field::ANY_VALUE_STRING, text.as_bytes()),
        AttributeValue::Number(number) => out.put_varint_field(field::ANY_VALUE_INT, number.cast_unsigned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, KeyValue, any_value::Value},
        trace::v1::{self as otlp},
    };
    use phase6_telemetry::{SpanId, TraceId};
    use proptest::prelude::*;

    use super::*;

    /// Converts a span to OpenTelemetry's own type.
    fn expected(span: &Span) -> otlp::Span {
        let text = |text: &str| Value::StringValue(text.to_owned());
        let pair = |name: &str, value| KeyValue {
            key: name.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        };
        let mut attributes: Vec<_> = span
            .attributes
            .iter()
            .map(|(name, value)| match value {
                AttributeValue::Text(value) => pair(name, text(value)),
                AttributeValue::Number(number) => pair(name, Value::IntValue(*number)),
            })
            .collect();
        match span.keep_reason {
            KeepReason::Sampled => {}
            KeepReason::Error => attributes.push(pair("phase6.keep_reason", text("error"))),
            KeepReason::Slow => attributes.push(pair("phase6.keep_reason", text("slow"))),
        }
        let start = span.start.as_nanosecond() as u64;
        let remote = span.kind == SpanKind::Server && span.parent_span_id.is_some();
        otlp::Span {
            trace_id: span.trace_id.get().to_be_bytes().to_vec(),
            span_id: span.span_id.get().to_be_bytes().to_vec(),
            parent_span_id: span.parent_span_id.map(|id| id.get().to_be_bytes().to_vec()).unwrap_or_default(),
            name: span.name.clone(),
            kind: match span.kind {
                SpanKind::Internal => 1,
                SpanKind::Server => 2,
                SpanKind::Client => 3,
            },
            start_time_unix_nano: start,
            end_time_unix_nano: start + span.duration.as_nanos() as u64,
            attributes,
            status: (span.status == SpanStatus::Error)
                .then(|| otlp::Status { code: 2, message: String::new() }),
            flags: u32::from(span.keep_reason == KeepReason::Sampled)
                | 0x100
                | if remote { 0x200 } else { 0 },
            ..otlp::Span::default()
        }
    }

    fn attribute_value() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            any::<i64>().prop_map(AttributeValue::Number),
            (0_i64..600).prop_map(AttributeValue::Number),
            ".{0,300}".prop_map(AttributeValue::from),
        ]
    }

    prop_compose! {
        fn span()(
            parent in any::<bool>(),
            // Covers spans whose length is encoded in one, two and three bytes.
            name in prop_oneof![".{0,200}", Just(String::new()), Just("x".repeat(20_000))],
            kind in prop::sample::select(vec![SpanKind::Server, SpanKind::Client, SpanKind::Internal]),
            start in 0..4_000_000_000_000_000_000_i128,
            duration in any::<u32>(),
            status in prop::sample::select(vec![SpanStatus::Ok, SpanStatus::Error]),
            keep_reason in prop::sample::select(vec![KeepReason::Sampled, KeepReason::Error, KeepReason::Slow]),
            values in prop::collection::vec(attribute_value(), 0..6),
        ) -> Span {
            let names = ["", "url.path", "http.route", "error.type", "server.address", "http.request.method"];
            Span {
                trace_id: TraceId::random(),
                span_id: SpanId::random(),
                parent_span_id: parent.then(SpanId::random),
                name,
                kind,
                start: Timestamp::from_nanosecond(start).unwrap(),
                duration: Duration::from_nanos(duration.into()),
                status,
                keep_reason,
                attributes: names.into_iter().zip(values).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn opentelemetrys_types_decode_every_encoded_span(spans in prop::collection::vec(span(), 0..5)) {
            let resource = Resource::builder_empty().with_service_name("budget").build();
            let mut encoded = vec![];
            for span in &spans {
                encode_span(span, &mut encoded);
            }
            let mut buffer = BytesMut::new();
            let message = Envelope::new(&resource, "1.2.3").message(&encoded, &mut buffer);
            let decoded = ExportTraceServiceRequest::decode(&message[..]).unwrap();
            let [resource_spans] = &decoded.resource_spans[..] else { panic!("{decoded:?}") };
            let attributes = &resource_spans.resource.as_ref().unwrap().attributes;
            prop_assert_eq!(&attributes[0].key, "service.name");
            let [scope_spans] = &resource_spans.scope_spans[..] else { panic!("{resource_spans:?}") };
            let scope = scope_spans.scope.as_ref().unwrap();
            prop_assert_eq!((&scope.name[..], &scope.version[..]), ("phase6", "1.2.3"));
            prop_assert_eq!(&scope_spans.spans, &spans.iter().map(expected).collect::<Vec<_>>());
        }
    }
}
