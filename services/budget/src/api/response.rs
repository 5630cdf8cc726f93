//! Responses with the cache directives of their kind, and server-sent events.

use axum::response::{IntoResponse, Response, sse::Event};
use http::header::{CACHE_CONTROL, HeaderName};
use jiff::Timestamp;
use phase6_chassis::Reply;
use serde::Serialize;

use crate::model::spending::time_until_next_utc_day;

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// Lifetime in seconds of a response whose changes are not always invalidated here, because another
/// replica, a provider or the clock causes them.
const BRIEF_LIFETIME: u64 = 5;

/// Returns a response that is public until one of `tags` is invalidated.
pub(super) fn cacheable<T: Serialize>(tags: &[&str], payload: T) -> Response {
    ([(CACHE_CONTROL, "public"), (SURROGATE_KEY, &tags.join(" "))], Reply::new(payload)).into_response()
}

/// Returns a response that is public for five seconds, at most until the end of the UTC day, and
/// until one of `tags` is invalidated.
pub(super) fn briefly_cacheable<T: Serialize>(now: Timestamp, tags: &[&str], payload: T) -> Response {
    let lifetime = time_until_next_utc_day(now).as_secs().min(BRIEF_LIFETIME);
    let control = format!("public, max-age={lifetime}");
    let headers = [(CACHE_CONTROL, control.as_str()), (SURROGATE_KEY, &tags.join(" "))];
    (headers, Reply::new(payload)).into_response()
}

/// Returns a response that is not cached.
pub(super) fn uncacheable<T: Serialize>(payload: T) -> Response {
    ([(CACHE_CONTROL, "no-store")], Reply::new(payload)).into_response()
}

/// Returns a server-sent event with JSON data.
pub(super) fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default())
}
