//! What is kept of an answer that came from the handler: for how long a failure may stand for others, by which
//! names it can be forgotten, and which of its headers belong to it rather than to one connection or caller.

use std::{hash::BuildHasher, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CONNECTION, CONTENT_LENGTH, ETAG, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::{
    answer::CACHE_STATUS,
    rfc9111::{CacheControl, Storable, age, vary},
};

/// Most tags of an answer that is stored.
const MOST_TAGS: usize = 32;

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a failure that is told to all who wait for it now says of itself; none: it is for one only. It is not
/// kept.
pub(crate) fn failure_of_all<ResBody>(authorised: bool, answer: &Response<ResBody>) -> Option<Storable> {
    let control = CacheControl::read(answer.headers());
    let for_all = answer.status().is_server_error()
        && !authorised
        && !control.no_store
        && !control.no_cache
        && !control.private
        && !answer.headers().contains_key(SET_COOKIE);
    Some(Storable {
        lifetime: Some(Duration::ZERO),
        max_age: None,
        public: false,
        must_revalidate: true,
        stale_while_revalidate: None,
        stale_if_error: None,
        age: age(answer.headers()),
        vary: vary(answer.headers()).filter(|_| for_all)?,
    })
}

/// The names that an answer can be forgotten by. None: more than are kept, or unreadable; it could not be
/// forgotten when it has to be.
pub(crate) fn tags(headers: &HeaderMap) -> Option<Vec<Box<str>>> {
    let mut tags = Vec::new();
    for line in headers.get_all(SURROGATE_KEY) {
        tags.extend(line.to_str().ok()?.split_ascii_whitespace().map(Into::into));
    }
    (tags.len() <= MOST_TAGS).then_some(tags)
}

fn is_about_a_limit(name: &str) -> bool {
    matches!(name, "ratelimit" | "ratelimit-policy") || name.starts_with("x-ratelimit-")
}

/// Headers worth keeping: not those of one connection, and with an `ETag` to compare by.
pub(crate) fn kept_headers(mut headers: HeaderMap, body: &Bytes, keep: bool) -> HeaderMap {
    // The length is that of the body, which is sent or not.
    for name in
        [CONNECTION, CONTENT_LENGTH, KEEP_ALIVE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, CACHE_STATUS]
    {
        headers.remove(name);
    }
    // Of the request that fetched it, and of nobody else.
    headers.remove(X_REQUEST_ID);
    let limits: Vec<HeaderName> =
        headers.keys().filter(|name| is_about_a_limit(name.as_str())).cloned().collect();
    for name in limits {
        headers.remove(name);
    }
    if keep && !headers.contains_key(ETAG) {
        let hash = foldhash::quality::FixedState::default().hash_one(body);
        headers.insert(ETAG, HeaderValue::from_str(&format!("\"{hash:016x}\"")).expect("hexadecimal digits"));
    }
    headers
}
