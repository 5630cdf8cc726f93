//! Parts of the handler's response that may be stored or shared: its tags, its reusable headers, and for
//! failures the terms on which concurrent requests share it.

use std::{hash::BuildHasher, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CONNECTION, CONTENT_LENGTH, ETAG, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::{
    response::CACHE_STATUS,
    rfc9111::{CacheControl, ResponseDirectives, received_age, vary},
};

/// Largest number of tags of a stored response.
const MAX_TAGS: usize = 32;

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns directives for a failure (a 5xx response) that all requests waiting for this fetch may share.
/// `None` if the response is no failure or is for its own request only. The failure is never stored.
pub(crate) fn shared_failure<ResBody>(
    has_credentials: bool,
    response: &Response<ResBody>,
) -> Option<ResponseDirectives> {
    let control = CacheControl::parse(response.headers());
    let may_be_shared = response.status().is_server_error()
        && !has_credentials
        && !control.no_store
        && !control.no_cache
        && !control.private
        && !response.headers().contains_key(SET_COOKIE);
    Some(ResponseDirectives {
        lifetime: Some(Duration::ZERO),
        max_age: None,
        public: false,
        must_revalidate: true,
        stale_while_revalidate: None,
        stale_if_error: None,
        received_age: received_age(response.headers()),
        vary: vary(response.headers()).filter(|_| may_be_shared)?,
    })
}

/// Returns the tags of a response (`Surrogate-Key`). `None` if one is unreadable or there are more than
/// [`MAX_TAGS`]: the response could then not be invalidated by all of its tags and must not be stored.
pub(crate) fn tags(headers: &HeaderMap) -> Option<Vec<Box<str>>> {
    let mut tags = Vec::new();
    for line in headers.get_all(SURROGATE_KEY) {
        tags.extend(line.to_str().ok()?.split_ascii_whitespace().map(Into::into));
    }
    (tags.len() <= MAX_TAGS).then_some(tags)
}

fn is_rate_limit_header(name: &str) -> bool {
    matches!(name, "ratelimit" | "ratelimit-policy") || name.starts_with("x-ratelimit-")
}

/// Returns the headers that hold for every request: without those of one connection, request or client, and
/// with an `ETag` if the response is to be stored.
pub(crate) fn reusable_headers(mut headers: HeaderMap, body: &Bytes, is_stored: bool) -> HeaderMap {
    // `Content-Length` is computed anew: a 304 or a response to `HEAD` has no body.
    for name in
        [CONNECTION, CONTENT_LENGTH, KEEP_ALIVE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, CACHE_STATUS]
    {
        headers.remove(name);
    }
    // The id names the request that fetched the response and no other.
    headers.remove(X_REQUEST_ID);
    let rate_limit_headers: Vec<HeaderName> =
        headers.keys().filter(|name| is_rate_limit_header(name.as_str())).cloned().collect();
    for name in rate_limit_headers {
        headers.remove(name);
    }
    if is_stored && !headers.contains_key(ETAG) {
        let hash = foldhash::quality::FixedState::default().hash_one(body);
        headers.insert(ETAG, HeaderValue::from_str(&format!("\"{hash:016x}\"")).expect("hexadecimal digits"));
    }
    headers
}
