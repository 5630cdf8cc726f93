//! W3C trace context (<https://www.w3.org/TR/trace-context/>), level 1.
//!
//! An invalid `traceparent` is ignored, as the specification requires: a new trace begins. IDs come from a
//! cryptographically secure generator.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{CryptoRng, RngExt};
use serde::{Serialize, Serializer};

/// Header that carries the trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Id of a trace; never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// Id of a span; never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

/// Returns the generator of IDs. Cryptographically secure, so that nobody can predict the IDs of others.
fn rng() -> impl CryptoRng {
    rand::rng()
}

impl TraceId {
    /// Generates a random id.
    pub fn random() -> Self {
        Self(rng().random::<u128>().max(1))
    }

    /// Returns the id as a number.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// Returns the id as a header value of 32 hexadecimal digits.
    pub fn to_header(self) -> HeaderValue {
        let mut text = [0; 32];
        write_hex(&mut text, self.0);
        HeaderValue::from_bytes(&text).expect("hexadecimal digits")
    }
}

/// Generates the IDs of a new trace and its root span in one call of the generator.
pub(crate) fn random_ids() -> (TraceId, SpanId) {
    let (trace, span): (u128, u64) = rng().random();
    (TraceId(trace.max(1)), SpanId(span.max(1)))
}

impl SpanId {
    /// Generates a random id.
    pub fn random() -> Self {
        Self(rng().random::<u64>().max(1))
    }

    /// Returns the id as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Position of a span in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Id of the trace.
    pub trace_id: TraceId,
    /// Id of the span.
    pub span_id: SpanId,
    /// True if the spans of the trace are recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads the `traceparent` header. Returns `None` if it is missing, repeated or invalid.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        Self::parse(only.as_bytes())
    }

    /// Parses `00-<trace ID>-<span ID>-<flags>`. Of later versions, parses the prefix of this form.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let well_formed = text.len() >= 55 && text[2] == b'-' && text[35] == b'-' && text[52] == b'-';
        if !well_formed {
            return None;
        }
        let version = parse_hex(&text[0..2])?;
        let length_fits = match version {
            0 => text.len() == 55,
            0xff => false,
            _ => text.len() == 55 || text[55] == b'-',
        };
        if !length_fits {
            return None;
        }
        let trace_id = u128::from(parse_hex(&text[3..19])?) << 64 | u128::from(parse_hex(&text[19..35])?);
        let span_id = parse_hex(&text[36..52])?;
        let flags = parse_hex(&text[53..55])?;
        let are_ids = trace_id != 0 && span_id != 0;
        are_ids.then_some(Self {
            trace_id: TraceId(trace_id),
            span_id: SpanId(span_id),
            sampled: flags & 1 == 1,
        })
    }

    /// Returns the context of a new child span.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: SpanId::random(), ..*self }
    }

    /// Returns the context as the value of a `traceparent` header.
    pub fn to_header(&self) -> HeaderValue {
        let mut text = *b"00-................................-................-00";
        write_hex(&mut text[3..35], self.trace_id.0);
        write_hex(&mut text[36..52], u128::from(self.span_id.0));
        text[54] = if self.sampled { b'1' } else { b'0' };
        HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes")
    }
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Value of each ASCII character as a lower-case hexadecimal digit; 255 for other characters.
const DIGIT_VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Parses up to sixteen lower-case hexadecimal digits.
fn parse_hex(digits: &[u8]) -> Option<u64> {
    // Invalid digits are detected once at the end, which saves a branch per digit.
    let (number, seen_bits) = digits.iter().fold((0, 0), |(number, seen_bits), digit| {
        let value = DIGIT_VALUES[usize::from(*digit)];
        (number << 4 | u64::from(value & 15), seen_bits | value)
    });
    (seen_bits < 16).then_some(number)
}

/// Fills `out` with the last hexadecimal digits of a number.
fn write_hex(out: &mut [u8], number: u128) {
    let bytes = number.to_be_bytes();
    let last = &bytes[bytes.len() - out.len() / 2..];
    for (pair, byte) in out.chunks_exact_mut(2).zip(last) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn parses_the_example_of_the_specification() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(context.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id.to_string(), "b7ad6b7169203331");
        assert!(context.sampled);
        assert_eq!(context.to_header(), EXAMPLE);
    }

    #[test]
    fn ids_are_displayed_and_serialized_as_hexadecimal_digits() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        assert_eq!(format!("{:?} {:?}", context.trace_id, context.span_id), format!("{trace} {span}"));
        assert_eq!(serde_json::json!([context.trace_id, context.span_id]), serde_json::json!([trace, span]));
        assert_eq!(context.trace_id.to_header(), trace);
        assert_eq!(
            format!("{:032x}{:016x}", context.trace_id.get(), context.span_id.get()),
            trace.to_owned() + span
        );
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        let child = context.child();
        assert_ne!(child.span_id, context.span_id);
        assert_eq!(TraceContext { span_id: context.span_id, ..child }, context);
    }

    #[test]
    fn rejects_invalid_headers() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "000af7651916cd43dd8448eb211c80319c--b7ad6b7169203331-01x",
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn parses_the_known_prefix_of_a_later_version() {
        let known = "42-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = |rest: &str| TraceContext::parse(format!("{known}{rest}").as_bytes());
        assert!(read("").is_some() && read("-what-comes").is_some());
        assert_eq!(read("what-comes"), None, "the flags are longer than two digits");
    }

    #[test]
    fn a_repeated_header_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert!(TraceContext::from_headers(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert_eq!(TraceContext::from_headers(&headers), None);
    }

    #[test]
    fn random_ids_are_unique() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| TraceId::random()).collect();
        assert_eq!(ids.len(), 10_000);
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| random_ids()).collect();
        assert_eq!(ids.len(), 10_000);
    }

    /// The IDs of the original system came from a predictable generator.
    #[test]
    fn ids_come_from_a_cryptographic_generator_and_every_bit_is_random() {
        fn cryptographic(_: &impl CryptoRng) {}
        cryptographic(&rng());
        let ids: Vec<_> = (0..10_000).map(|_| TraceId::random().get()).collect();
        for bit in 0..128 {
            let set = ids.iter().filter(|id| **id >> bit & 1 == 1).count();
            assert!((4_500..=5_500).contains(&set), "bit {bit} is set in {set} of 10,000");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_context_parses_to_itself(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let context = TraceContext { trace_id: TraceId(trace), span_id: SpanId(span), sampled };
            prop_assert_eq!(TraceContext::parse(context.to_header().as_bytes()), Some(context));
        }

        #[test]
        fn parsing_never_panics(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&text);
        }
    }
}
