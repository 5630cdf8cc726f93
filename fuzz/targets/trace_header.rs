//! Trace context and request ids as anybody may send them: what is read is written the same, what is not as
//! the standard says is as good as none, and nobody who is not trusted decides about sampling.

#![no_main]

use std::{convert::Infallible, sync::LazyLock};

use futures_util::FutureExt;
use http::{HeaderValue, Request, Response};
use libfuzzer_sys::fuzz_target;
use phase6_policy::Tracing;
use phase6_telemetry::{
    RequestAccessors, RequestTelemetryLayer, Sampler, Telemetry, TraceContext, context::TRACEPARENT,
};
use tower::{Layer, Service, service_fn};

static POLICY: LazyLock<Tracing> = LazyLock::new(Tracing::default);
const ACCESSORS: RequestAccessors = RequestAccessors { tracing: |_| Some(&POLICY), trusted: |_| false };

/// Whether the standard's grammar holds, said in another way than the parser says it.
fn is_valid(text: &[u8]) -> bool {
    // Of later versions anything may follow, after a dash.
    let Some((known, rest)) = text.split_at_checked(55) else { return false };
    let Ok(known) = std::str::from_utf8(known) else { return false };
    let parts: Vec<&str> = known.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return false };
    let is_hex = |part: &str, length: usize| {
        part.len() == length
            && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_some = |part: &str| part.bytes().any(|byte| byte != b'0');
    is_hex(version, 2)
        && *version != "ff"
        && (rest.is_empty() || (*version != "00" && rest[0] == b'-'))
        && is_hex(trace, 32)
        && is_some(trace)
        && is_hex(span, 16)
        && is_some(span)
        && is_hex(flags, 2)
}

fn context(text: &[u8]) {
    let read = TraceContext::parse(text);
    assert_eq!(read.is_some(), is_valid(text), "valid is what the standard says");
    let Some(context) = read else { return };
    let written = context.to_header();
    assert_eq!(TraceContext::parse(written.as_bytes()), Some(context), "what is written reads back");
    assert_eq!(written.as_bytes()[3..52], text[3..52], "ids go on as they came");
    let child = context.child();
    assert_eq!((child.trace_id, child.sampled), (context.trace_id, context.sampled));
    let sampler = Sampler::new(1);
    let flipped = TraceContext { sampled: !context.sampled, ..context };
    let chosen = |parent, trusted| sampler.should_sample(context.trace_id, Some(parent), trusted, 0.5);
    assert_eq!(chosen(&context, false), chosen(&flipped, false), "a stranger's flag decides nothing");
    assert!(!context.sampled || chosen(&context, true), "a trusted one's does");
}

/// One request through the layer with these headers.
fn request(traceparent: &[u8], id: &[u8]) {
    static TELEMETRY: LazyLock<std::sync::Arc<Telemetry>> =
        LazyLock::new(|| Telemetry::new("fuzz", Sampler::new(1), None));
    let mut request = Request::new(());
    for (name, value) in [(TRACEPARENT.as_str(), traceparent), ("x-request-id", id)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers_mut().insert(name.parse::<http::HeaderName>().expect("a name"), value);
        }
    }
    let handler = |_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(())));
    let mut service = RequestTelemetryLayer::new(TELEMETRY.clone(), ACCESSORS).layer(service_fn(handler));
    let Some(Ok(answer)) = service.call(request).now_or_never() else { panic!("it is ready at once") };
    let told = answer.headers()["x-request-id"].as_bytes();
    let is_short = (1..=128).contains(&told.len()) && told.iter().all(u8::is_ascii_graphic);
    assert!(is_short, "an id that is echoed is short and printable: {told:?}");
    if HeaderValue::from_bytes(traceparent).is_ok()
        && let Some(context) = TraceContext::parse(traceparent)
        && told != id
    {
        assert_eq!(told, context.trace_id.to_string().as_bytes(), "else the trace's");
    }
}

fuzz_target!(|data: &[u8]| {
    let (traceparent, id) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b""[..]),
    };
    context(traceparent);
    request(traceparent, id);
});
