//! Spans as OTLP's protobuf.
//!
//! A span is written once, when it ends, while the processor still holds it. OpenTelemetry's SDK makes a span
//! of its own of it, a message of that, and bytes of the message, with some thirty allocations for each span:
//! more than a sampled request may cost. What comes but once in a batch is left to OpenTelemetry's own types,
//! and a test reads back with them what is written here.

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry_proto::{
    tonic::{
        common::v1::InstrumentationScope,
        resource::v1::Resource as ResourceMessage,
        trace::v1::{ResourceSpans, ScopeSpans, SpanFlags, span::SpanKind, status::StatusCode},
    },
    transform::common::tonic::ResourceAttributesWithSchema,
};
use opentelemetry_sdk::Resource;
use phase6_telemetry::{Attribute, Kept, Kind, Span, Status};
use prost::Message;

/// What stands around the spans of a service: who sends them.
pub(crate) struct Frame {
    /// A group of spans without its scopes.
    resource: Vec<u8>,
    /// A scope without its spans.
    scope: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(resource: &Resource, version: &str) -> Self {
        let known = ResourceAttributesWithSchema::from(resource);
        let resource = ResourceMessage { attributes: known.attributes.0, ..ResourceMessage::default() };
        let scope = InstrumentationScope {
            name: "phase6".to_owned(),
            version: version.to_owned(),
            ..InstrumentationScope::default()
        };
        let group = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![],
            schema_url: known.schema_url.unwrap_or_default(),
        };
        let scope = ScopeSpans { scope: Some(scope), spans: vec![], schema_url: String::new() };
        Self { resource: group.encode_to_vec(), scope: scope.encode_to_vec() }
    }

    /// A whole message of spans that [`write`] has written. It is in `room` until it is dropped.
    pub(crate) fn message(&self, spans: &[u8], room: &mut BytesMut) -> Bytes {
        let scope = self.scope.len() + spans.len();
        let group = self.resource.len() + framed(scope);
        room.clear();
        room.reserve(framed(group));
        room.open(1, group);
        room.put_slice(&self.resource);
        room.open(2, scope);
        room.put_slice(&self.scope);
        room.put_slice(spans);
        room.split().freeze()
    }
}

/// Appends a span, as one of its scope's.
pub(crate) fn write(span: &Span, to: &mut Vec<u8>) {
    to.tag(2, 2);
    // The length of all spans but the oddest ones takes two bytes.
    let at = to.len();
    to.extend([0; 2]);
    let begin = to.len();
    fields(span, to);
    let length = to.len() - begin;
    match length {
        0x80..0x4000 => to[at..begin].copy_from_slice(&[length as u8 | 0x80, (length >> 7) as u8]),
        _ => {
            let mut written = Vec::with_capacity(width(length as u64));
            written.varint(length as u64);
            to.splice(at..begin, written);
        }
    }
}

fn fields(span: &Span, out: &mut Vec<u8>) {
    out.bytes(1, &span.trace_id.get().to_be_bytes());
    out.bytes(2, &span.span_id.get().to_be_bytes());
    if let Some(parent) = span.parent_span_id {
        out.bytes(4, &parent.get().to_be_bytes());
    }
    out.bytes(5, span.name.as_bytes());
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Internal => SpanKind::Internal,
    };
    out.number(6, kind as u64);
    let start = u64::try_from(span.start.as_nanosecond()).unwrap_or_default();
    let lasted = u64::try_from(span.duration.as_nanos()).unwrap_or(u64::MAX);
    out.fixed64(7, start);
    out.fixed64(8, start.saturating_add(lasted));
    for (name, value) in &span.attributes {
        attribute(out, name, value);
    }
    // Others of its trace are missing then, and who looks at it wonders why.
    match span.kept {
        Kept::Sampled => {}
        Kept::Error => attribute(out, "phase6.kept", &Attribute::from("error")),
        Kept::Slow => attribute(out, "phase6.kept", &Attribute::from("slow")),
    }
    if span.status == Status::Error {
        let code = StatusCode::Error as u64;
        out.open(15, 1 + width(code));
        out.number(3, code);
    }
    out.fixed32(16, flags(span));
}

/// Whether its trace is sampled, and where its parent is.
fn flags(span: &Span) -> u32 {
    let sampled = u32::from(span.kept == Kept::Sampled);
    let remote = span.kind == Kind::Server && span.parent_span_id.is_some();
    let of_parent = if remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    sampled | SpanFlags::ContextHasIsRemoteMask as u32 | of_parent
}

fn attribute(out: &mut Vec<u8>, name: &str, value: &Attribute) {
    let inner = match value {
        Attribute::Text(text) => framed(text.len()),
        Attribute::Number(number) => 1 + width(number.cast_unsigned()),
    };
    out.open(9, framed(name.len()) + framed(inner));
    out.bytes(1, name.as_bytes());
    out.open(2, inner);
    match value {
        Attribute::Text(text) => out.bytes(1, text.as_bytes()),
        Attribute::Number(number) => out.number(3, number.cast_unsigned()),
    }
}

/// The bytes of a number: seven bits in each.
const fn width(number: u64) -> usize {
    (64 - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// The bytes of a field of this length, under a number below 16.
const fn framed(length: usize) -> usize {
    1 + width(length as u64) + length
}

/// What protobuf is made of. All fields are written, also those that have their default.
trait Protobuf: BufMut {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.put_u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.put_u8(number as u8);
    }

    /// Begins a field: its number, and how its bytes are to be read.
    fn tag(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn number(&mut self, field: u64, number: u64) {
        self.tag(field, 0);
        self.varint(number);
    }

    fn fixed64(&mut self, field: u64, number: u64) {
        self.tag(field, 1);
        self.put_u64_le(number);
    }

    /// Begins a field of so many bytes.
    fn open(&mut self, field: u64, length: usize) {
        self.tag(field, 2);
        self.varint(length as u64);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.open(field, bytes.len());
        self.put_slice(bytes);
    }

    fn fixed32(&mut self, field: u64, number: u32) {
        self.tag(field, 5);
        self.put_u32_le(number);
    }
}

impl<B: BufMut> Protobuf for B {}

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

    /// The same span, as OpenTelemetry's own types have it.
    fn theirs(span: &Span) -> otlp::Span {
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
                Attribute::Text(value) => pair(name, text(value)),
                Attribute::Number(number) => pair(name, Value::IntValue(*number)),
            })
            .collect();
        match span.kept {
            Kept::Sampled => {}
            Kept::Error => attributes.push(pair("phase6.kept", text("error"))),
            Kept::Slow => attributes.push(pair("phase6.kept", text("slow"))),
        }
        let start = span.start.as_nanosecond() as u64;
        let remote = span.kind == Kind::Server && span.parent_span_id.is_some();
        otlp::Span {
            trace_id: span.trace_id.get().to_be_bytes().to_vec(),
            span_id: span.span_id.get().to_be_bytes().to_vec(),
            parent_span_id: span.parent_span_id.map(|id| id.get().to_be_bytes().to_vec()).unwrap_or_default(),
            name: span.name.clone(),
            kind: match span.kind {
                Kind::Internal => 1,
                Kind::Server => 2,
                Kind::Client => 3,
            },
            start_time_unix_nano: start,
            end_time_unix_nano: start + span.duration.as_nanos() as u64,
            attributes,
            status: (span.status == Status::Error).then(|| otlp::Status { code: 2, message: String::new() }),
            flags: u32::from(span.kept == Kept::Sampled) | 0x100 | if remote { 0x200 } else { 0 },
            ..otlp::Span::default()
        }
    }

    fn value() -> impl Strategy<Value = Attribute> {
        prop_oneof![
            any::<i64>().prop_map(Attribute::Number),
            (0_i64..600).prop_map(Attribute::Number),
            ".{0,300}".prop_map(Attribute::from),
        ]
    }

    prop_compose! {
        fn span()(
            parent in any::<bool>(),
            // From spans whose length takes one byte to those whose length takes three.
            name in prop_oneof![".{0,200}", Just(String::new()), Just("x".repeat(20_000))],
            kind in prop::sample::select(vec![Kind::Server, Kind::Client, Kind::Internal]),
            start in 0..4_000_000_000_000_000_000_i128,
            duration in any::<u32>(),
            status in prop::sample::select(vec![Status::Ok, Status::Error]),
            kept in prop::sample::select(vec![Kept::Sampled, Kept::Error, Kept::Slow]),
            values in prop::collection::vec(value(), 0..6),
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
                kept,
                attributes: names.into_iter().zip(values).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn opentelemetry_reads_every_span_as_it_was_written(spans in prop::collection::vec(span(), 0..5)) {
            let resource = Resource::builder_empty().with_service_name("budget").build();
            let mut written = vec![];
            for span in &spans {
                write(span, &mut written);
            }
            let mut room = BytesMut::new();
            let message = Frame::new(&resource, "1.2.3").message(&written, &mut room);
            let read = ExportTraceServiceRequest::decode(&message[..]).unwrap();
            let [group] = &read.resource_spans[..] else { panic!("{read:?}") };
            let sender = &group.resource.as_ref().unwrap().attributes;
            prop_assert_eq!(&sender[0].key, "service.name");
            let [scope] = &group.scope_spans[..] else { panic!("{group:?}") };
            let name = scope.scope.as_ref().unwrap();
            prop_assert_eq!((&name.name[..], &name.version[..]), ("phase6", "1.2.3"));
            prop_assert_eq!(&scope.spans, &spans.iter().map(theirs).collect::<Vec<_>>());
        }

        #[test]
        fn the_width_of_a_number_is_how_many_bytes_it_takes(number: u64, shift in 0_u32..64) {
            let mut written = vec![];
            written.varint(number >> shift);
            prop_assert_eq!(written.len(), width(number >> shift));
        }
    }
}
