//! A stored answer and the key it is stored under.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use crate::rfc9111::Storable;

/// Room for headers and bookkeeping, added to the size of a body.
const OVERHEAD: usize = 512;
/// An entry of up to this size counts as one.
const UNIT: usize = 8 * 1024;

/// What an answer is stored under: whose it is and what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The caller that the answer was made for; empty for the anonymous.
    pub tenant: Box<str>,
    /// Path and query.
    pub uri: Box<str>,
}

impl Key {
    /// The path without its query.
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }
}

/// Path and query with percent-encoding in its normal form (RFC 3986, section 6.2.2): what need
/// not be encoded is not, hexadecimal digits are upper-case. Means the same as before.
///
/// A target with a percent sign that encodes nothing stays as it is: what its other escapes stand
/// for could make an escape of that sign, and one target would be taken for another.
pub fn normalised(uri: &Uri) -> Cow<'_, str> {
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

/// What a request says under a name, on however many lines.
pub(crate) fn sent(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
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

/// A stored answer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is stored under.
    pub key: Key,
    /// The request headers that it was chosen by, with the values of its request.
    pub vary: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Status of the answer.
    pub status: StatusCode,
    /// Headers, without those of a single connection.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// What the answer allows.
    pub storable: Storable,
    /// When its making began, on the cache's clock: from then on it grows old (RFC 9111, section 4.2.3).
    pub made_at_ms: u64,
    /// Its share of a full life; see [`crate::judge::judge`].
    pub jitter: f64,
    /// Names by which it can be invalidated together with others.
    pub tags: Vec<Box<str>>,
    /// What the request was counted as, to be told again on a hit.
    pub label: Box<str>,
}

impl Entry {
    /// Its age at `now_ms`, without the age it had when it came.
    pub fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.made_at_ms))
    }

    /// Whether it says that something is not there.
    pub fn is_negative(&self) -> bool {
        self.status.is_client_error()
    }

    /// Whether it answers a request with these headers.
    pub(crate) fn answers(&self, tenant: &str, uri: &str, headers: &HeaderMap) -> bool {
        // Two empty strings are not left to `memcmp`: its masked load from where nothing lies
        // costs as much as all the rest of a hit.
        let both_anonymous = self.key.tenant.is_empty() && tenant.is_empty();
        (both_anonymous || *self.key.tenant == *tenant)
            && *self.key.uri == *uri
            && self.vary.iter().all(|(name, value)| sent(headers, name) == *value)
    }

    /// What it takes of the room for entries.
    pub(crate) fn weight(&self) -> u64 {
        (self.size().div_ceil(UNIT)).max(1) as u64
    }

    /// Bytes, about.
    pub(crate) fn size(&self) -> usize {
        OVERHEAD + self.key.tenant.len() + self.key.uri.len() + self.body.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A plain answer for anybody.
    pub(crate) fn entry(uri: &str, tags: &[&str]) -> Entry {
        Entry {
            key: Key { tenant: "".into(), uri: uri.into() },
            vary: vec![],
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"1\""))]),
            body: Bytes::new(),
            storable: Storable {
                lifetime: None,
                max_age: None,
                public: false,
                must_revalidate: false,
                stale_while_revalidate: None,
                stale_if_error: None,
                age: Duration::ZERO,
                vary: vec![],
            },
            made_at_ms: 0,
            jitter: 1.0,
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            label: Box::default(),
        }
    }

    fn normal(text: &str) -> String {
        normalised(&text.parse().unwrap()).into_owned()
    }

    #[test]
    fn percent_encoding_is_brought_into_its_normal_form() {
        assert_eq!(normal("/a?b=c"), "/a?b=c");
        assert_eq!(normal("/%61%2fb?x=%7e"), "/a%2Fb?x=~");
        assert_eq!(normal("/a?x=1&y=2"), "/a?x=1&y=2");
        assert_ne!(normal("/a?x=1&y=2"), normal("/a?y=2&x=1"), "an order can mean something");
        assert_eq!(normal("http://host/a"), "/a");
    }

    /// `%%30A` was taken for `%0A`.
    #[test]
    fn a_percent_sign_that_encodes_nothing_makes_no_escape_of_what_follows() {
        for odd in ["/%%30A", "/%2", "/a%", "/%+a", "/%zz%61", "/%61%"] {
            assert_eq!(normal(odd), odd);
        }
    }

    proptest! {
        #[test]
        fn targets_that_differ_in_meaning_have_different_normal_forms(
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
                prop_assert_ne!(normal(&one), normal(&other));
            }
        }

        #[test]
        fn normalising_twice_changes_nothing(path in "(/[a-z%0-9A-F~._-]{0,8}){0,4}|/[%0-3Aa]{0,6}") {
            if let Ok(uri) = path.parse::<Uri>() {
                let once = normalised(&uri).into_owned();
                if let Ok(again) = once.parse::<Uri>() {
                    prop_assert_eq!(normalised(&again).into_owned(), once);
                }
            }
        }
    }
}
