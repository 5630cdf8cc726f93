//! A stored response and the key it is stored under.
//!
//! Decides which requests an entry can serve. Leaves its freshness to [`crate::freshness`].

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use crate::{
    CachePolicy,
    freshness::{Freshness, freshness},
    rfc9111::{RequestDirectives, ResponseDirectives},
};

/// Bytes added to the size of a body for headers and bookkeeping.
const OVERHEAD: usize = 512;
/// Largest size, in bytes, of an entry that counts as one.
const WEIGHT_UNIT: usize = 8 * 1024;

/// Key that a response is stored under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Tenant that the response was made for; empty for anonymous clients.
    pub tenant: Box<str>,
    /// Path and query, normalized by [`normalize_target`].
    pub uri: Box<str>,
}

impl Key {
    /// Returns the path without the query.
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }
}

/// Returns path and query with percent-encoding in its normal form (RFC 3986, section 6.2.2): unreserved
/// characters are decoded, hexadecimal digits are upper-case. The meaning stays the same.
///
/// A target with a `%` that starts no escape is returned unchanged: decoding its other escapes could turn
/// that `%` into one, and two different targets would share a key.
pub fn normalize_target(uri: &Uri) -> Cow<'_, str> {
    let text = uri.path_and_query().map_or("/", |target| target.as_str());
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split('%');
    let mut out = String::with_capacity(text.len());
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let digits = piece.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return Cow::Borrowed(text);
        };
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&piece[..2].to_ascii_uppercase());
        }
        out.push_str(&piece[2..]);
    }
    Cow::Owned(out)
}

/// Returns the value of a request header, with the values of repeated lines joined by commas.
pub(crate) fn combined_value(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    let mut more = lines.peekable();
    if more.peek().is_none() {
        return Some(first.clone());
    }
    let mut all = first.as_bytes().to_vec();
    for line in more {
        all.extend_from_slice(b", ");
        all.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&all).ok()
}

/// A stored response.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Key that the response is stored under.
    pub key: Key,
    /// Request headers that selected the response, with their values in the request that fetched it.
    pub vary: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Status of the response.
    pub status: StatusCode,
    /// Headers of the response, without those of a single connection or request.
    pub headers: HeaderMap,
    /// Body of the response.
    pub body: Bytes,
    /// Limits that the response sets for its reuse.
    pub directives: ResponseDirectives,
    /// Start of the fetch in milliseconds on the cache's clock. The age counts from here (RFC 9111, section
    /// 4.2.3).
    pub fetch_started_at_ms: u64,
    /// Share of the freshness lifetime that this entry gets, in (0, 1]; see [`crate::freshness::freshness`].
    pub jitter: f64,
    /// Tags by which the response can be invalidated together with others.
    pub tags: Vec<Box<str>>,
    /// Metrics label of the request that fetched the response, restored on every hit.
    pub label: Box<str>,
}

impl Entry {
    /// Returns the age at `now_ms`, without the age with which the response arrived.
    pub fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.fetch_started_at_ms))
    }

    /// Returns true if the response reports a client error, such as a missing resource.
    pub fn is_negative(&self) -> bool {
        self.status.is_client_error()
    }

    /// Returns the freshness at `now_ms` for a request under a policy.
    pub fn freshness(&self, policy: &CachePolicy, request: &RequestDirectives, now_ms: u64) -> Freshness {
        freshness(&self.directives, self.is_negative(), self.jitter, self.age(now_ms), policy, request)
    }

    /// Returns true if the response was stored for this tenant and target, and was selected by the same
    /// values of the request headers that it varies on.
    pub(crate) fn matches_request(&self, tenant: &str, uri: &str, headers: &HeaderMap) -> bool {
        // Two empty strings bypass `memcmp`: its masked load from a dangling pointer costs as much as the
        // rest of a hit.
        let both_anonymous = self.key.tenant.is_empty() && tenant.is_empty();
        (both_anonymous || *self.key.tenant == *tenant)
            && *self.key.uri == *uri
            && self.vary.iter().all(|(name, value)| combined_value(headers, name) == *value)
    }

    /// Returns the number of entries that this one counts as.
    pub(crate) fn weight(&self) -> u64 {
        (self.size().div_ceil(WEIGHT_UNIT)).max(1) as u64
    }

    /// Returns the approximate size in bytes.
    pub(crate) fn size(&self) -> usize {
        OVERHEAD + self.key.tenant.len() + self.key.uri.len() + self.body.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A minimal response for anonymous clients.
    pub(crate) fn entry(uri: &str, tags: &[&str]) -> Entry {
        Entry {
            key: Key { tenant: "".into(), uri: uri.into() },
            vary: vec![],
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"1\""))]),
            body: Bytes::new(),
            directives: ResponseDirectives {
                lifetime: None,
                max_age: None,
                public: false,
                must_revalidate: false,
                stale_while_revalidate: None,
                stale_if_error: None,
                received_age: Duration::ZERO,
                vary: vec![],
            },
            fetch_started_at_ms: 0,
            jitter: 1.0,
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            label: Box::default(),
        }
    }

    fn normalize(text: &str) -> String {
        normalize_target(&text.parse().unwrap()).into_owned()
    }

    #[test]
    fn percent_encoding_is_normalized() {
        assert_eq!(normalize("/a?b=c"), "/a?b=c");
        assert_eq!(normalize("/%61%2fb?x=%7e"), "/a%2Fb?x=~");
        assert_eq!(normalize("/a?x=1&y=2"), "/a?x=1&y=2");
        assert_ne!(
            normalize("/a?x=1&y=2"),
            normalize("/a?y=2&x=1"),
            "the order of parameters may be significant"
        );
        assert_eq!(normalize("http://host/a"), "/a");
    }

    /// `%%30A` was once normalized to `%0A`.
    #[test]
    fn a_target_with_a_percent_sign_that_starts_no_escape_stays_unchanged() {
        for target in ["/%%30A", "/%2", "/a%", "/%+a", "/%zz%61", "/%61%"] {
            assert_eq!(normalize(target), target);
        }
    }

    proptest! {
        #[test]
        fn targets_with_different_meanings_have_different_normal_forms(
            one in "/[%0-3Aa]{0,6}", other in "/[%0-3Aa]{0,6}",
        ) {
            let meaning = |text: &str| {
                let mut bytes = Vec::new();
                let mut pieces = text.split('%');
                bytes.extend(pieces.next().unwrap_or_default().bytes());
                for piece in pieces {
                    let digits = piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                    let (byte, rest) = digits.map_or((b'%', piece), |digits| {
                        (u8::from_str_radix(digits, 16).unwrap_or(0), &piece[2..])
                    });
                    bytes.push(byte);
                    bytes.extend(rest.bytes());
                }
                bytes
            };
            if one.parse::<Uri>().is_ok() && other.parse::<Uri>().is_ok() && meaning(&one) != meaning(&other) {
                prop_assert_ne!(normalize(&one), normalize(&other));
            }
        }

        #[test]
        fn normalization_is_idempotent(path in "(/[a-z%0-9A-F~._-]{0,8}){0,4}|/[%0-3Aa]{0,6}") {
            if let Ok(uri) = path.parse::<Uri>() {
                let once = normalize_target(&uri).into_owned();
                if let Ok(again) = once.parse::<Uri>() {
                    prop_assert_eq!(normalize_target(&again).into_owned(), once);
                }
            }
        }
    }
}
