//! Builds the response to a request from an entry: with its age, without its body if the client has it, and
//! with `Cache-Status` (RFC 9211).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_NONE_MATCH},
};

use crate::{CachePolicy, Entry, accessors::LayerState, downstream};

/// Room in the header map for the headers that this and outer layers add to a stored response.
const ADDED_HEADERS: usize = 12;

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Reason why a request went to the handler (`fwd` in RFC 9211).
#[derive(Clone, Copy)]
pub(crate) enum ForwardReason {
    UriMiss,
    Stale,
    Request,
}

impl ForwardReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

/// Content of the `Cache-Status` header.
pub(crate) enum CacheStatus {
    Hit {
        /// Remaining freshness lifetime in seconds; negative if the response is stale.
        ttl: Option<i64>,
        detail: Option<&'static str>,
    },
    /// The request waited for another one's fetch.
    Collapsed,
    Forward {
        reason: ForwardReason,
        stored: bool,
    },
}

impl LayerState {
    /// Builds the response from a fetched entry, or from `fallback` if the fetch failed, and counts the
    /// request.
    pub(crate) fn respond_fetched<ReqBody, ResBody: From<Bytes>>(
        &self,
        entry: &Entry,
        fallback: Option<&Entry>,
        request: &Request<ReqBody>,
        policy: &CachePolicy,
        status: CacheStatus,
    ) -> Response<ResBody> {
        if let Some(fallback) = fallback.filter(|_| entry.status.is_server_error()) {
            return self.respond_stale_if_error(fallback, request, policy);
        }
        let counters = self.cache.counters();
        let counter =
            if matches!(status, CacheStatus::Collapsed) { &counters.joined } else { &counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        self.respond(entry, request, policy, self.cache.now_ms(), &status)
    }

    /// Builds the response from a stale entry in place of a failed fetch, and counts the request.
    pub(crate) fn respond_stale_if_error<ReqBody, ResBody: From<Bytes>>(
        &self,
        fallback: &Entry,
        request: &Request<ReqBody>,
        policy: &CachePolicy,
    ) -> Response<ResBody> {
        self.cache.counters().stale_hits.fetch_add(1, Ordering::Relaxed);
        let status = CacheStatus::Hit { ttl: None, detail: Some("stale-if-error") };
        self.respond(fallback, request, policy, self.cache.now_ms(), &status)
    }

    /// Builds the response from an entry.
    pub(crate) fn respond<ReqBody, ResBody: From<Bytes>>(
        &self,
        entry: &Entry,
        request: &Request<ReqBody>,
        policy: &CachePolicy,
        now_ms: u64,
        status: &CacheStatus,
    ) -> Response<ResBody> {
        (self.accessors.set_label)(request.extensions(), &entry.label);
        // Preconditions apply only to successful responses (RFC 9110, section 13.2.1).
        let not_modified = entry.status.is_success()
            && request
                .headers()
                .get(IF_NONE_MATCH)
                .is_some_and(|if_none_match| matches_etag(if_none_match, entry.headers.get(ETAG)));
        let mut response = if not_modified || request.method() == Method::HEAD {
            Response::new(ResBody::from(Bytes::new()))
        } else {
            Response::new(ResBody::from(entry.body.clone()))
        };
        *response.status_mut() = if not_modified { StatusCode::NOT_MODIFIED } else { entry.status };
        // With room for the headers of outer layers, so that the map does not grow on every hit.
        let mut headers = HeaderMap::with_capacity(entry.headers.len() + ADDED_HEADERS);
        for (name, value) in &entry.headers {
            headers.append(name.clone(), value.clone());
        }
        *response.headers_mut() = headers;
        if request.method() == Method::HEAD && !not_modified {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(entry.body.len()));
        }
        let age = (entry.age(now_ms) + entry.directives.received_age).as_secs();
        response.headers_mut().insert(AGE, HeaderValue::from(age));
        // A failure keeps its own `Cache-Control`.
        if !entry.status.is_server_error() {
            let private = (self.accessors.client)(request.extensions()).has_credentials;
            response.headers_mut().insert(CACHE_CONTROL, downstream::cache_control(entry, private, policy));
        }
        self.append_cache_status(&mut response, status);
        response
    }

    /// Appends this cache's `Cache-Status` to a response.
    pub(crate) fn append_cache_status<ResBody>(
        &self,
        response: &mut Response<ResBody>,
        status: &CacheStatus,
    ) {
        // `format!` would be measurable here: this runs on every hit.
        let mut text = String::with_capacity(self.name.len() + 64);
        text.push_str(&self.name);
        match status {
            CacheStatus::Hit { ttl, detail } => {
                text.push_str("; hit");
                if let Some(ttl) = ttl {
                    text.push_str("; ttl=");
                    text.push_str(itoa::Buffer::new().format(*ttl));
                }
                if let Some(detail) = detail {
                    text.push_str("; detail=");
                    text.push_str(detail);
                }
            }
            CacheStatus::Collapsed => text.push_str("; fwd=uri-miss; collapsed"),
            CacheStatus::Forward { reason, stored } => {
                text.push_str("; fwd=");
                text.push_str(reason.as_str());
                if *stored {
                    text.push_str("; stored");
                }
            }
        }
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(CACHE_STATUS, value);
        }
    }
}

/// Returns true if `If-None-Match` names the entry's `ETag`, by weak comparison (RFC 9110, section 13.1.2).
fn matches_etag(if_none_match: &HeaderValue, etag: Option<&HeaderValue>) -> bool {
    let (Ok(if_none_match), Some(Ok(etag))) = (if_none_match.to_str(), etag.map(HeaderValue::to_str)) else {
        return false;
    };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if_none_match.trim() == "*" || if_none_match.split(',').any(|tag| opaque(tag) == opaque(etag))
}
