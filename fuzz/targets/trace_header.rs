//! Trace context and request IDs of clients: valid headers survive a round trip, invalid ones are ignored,
//! and clients that are not trusted have no influence on sampling.

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

/// True if a text matches the grammar of the standard; implemented independently of the parser.
fn is_valid(text: &[u8]) -> bool {
    // Later versions may append further fields after a dash.
    let Some((known, rest)) = text.split_at_checked(55) else { return false };
    let Ok(known) = std::str::from_utf8(known) else { return false };
    let parts: Vec<&str> = known.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return false };
    let is_hex = |part: &str, length: usize| {
        part.len() == length
            && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_nonzero = |part: &str| part.bytes().any(|byte| byte != b'0');
    is_hex(version, 2)
        && *version != "ff"
        && (rest.is_empty() || (*version != "00" && rest[0] == b'-'))
        && is_hex(trace, 32)
        && is_nonzero(trace)
        && is_hex(span, 16)
        && is_nonzero(span)
        && is_hex(flags, 2)
}

fn context(text: &[u8]) {
    let read = TraceContext::parse(text);
    assert_eq!(read.is_some(), is_valid(text));
    let Some(context) = read else { return };
    let written = context.to_header();
    assert_eq!(TraceContext::parse(written.as_bytes()), Some(context), "a written header is read back");
    assert_eq!(written.as_bytes()[3..52], text[3..52], "ids are unchanged");
    let child = context.child();
    assert_eq!((child.trace_id, child.sampled), (context.trace_id, context.sampled));
    let sampler = Sampler::new(1);
    let flipped = TraceContext { sampled: !context.sampled, ..context };
    let is_sampled = |parent, trusted| sampler.should_sample(context.trace_id, Some(parent), trusted, 0.5);
    assert_eq!(
        is_sampled(&context, false),
        is_sampled(&flipped, false),
        "an untrusted flag has no influence"
    );
    assert!(!context.sampled || is_sampled(&context, true), "a trusted flag is followed");
}

/// Sends one request with these headers through the layer.
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
    let Some(Ok(response)) = service.call(request).now_or_never() else {
        panic!("the handler is ready at once")
    };
    let returned = response.headers()["x-request-id"].as_bytes();
    let is_short = (1..=128).contains(&returned.len()) && returned.iter().all(u8::is_ascii_graphic);
    assert!(is_short, "a returned id is short and printable: {returned:?}");
    if HeaderValue::from_bytes(traceparent).is_ok()
        && let Some(context) = TraceContext::parse(traceparent)
        && returned != id
    {
        assert_eq!(
            returned,
            context.trace_id.to_string().as_bytes(),
            "otherwise the id of the trace is returned"
        );
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
