//! Streams of live events: server-sent events that resume after a lost connection.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http::{
    HeaderName,
    header::{CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};
use phase6_events::{EventId, Subscription};
use utoipa::IntoParams;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The header `Last-Event-ID`: the last event that a client has got, if it is known.
#[derive(Clone, Copy, Debug)]
pub struct LastEventId(pub Option<EventId>);

/// The header `Last-Event-ID` of an operation whose stream resumes.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "it is only described")]
pub struct LastEventIdHeader {
    /// ID of the last event that the client has got. The stream goes on after it, or begins with the current state if
    /// the event is no longer known.
    #[param(rename = "Last-Event-ID")]
    id: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let id = parts.headers.get(&LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Self(id))
    }
}

/// Returns the response to a subscriber. `guard` is dropped when the client leaves.
pub fn event_stream<G: Send + Sync + 'static>(subscription: Subscription, guard: G) -> Response {
    let chunks = subscription.into_stream().map(move |chunk| {
        let _held = &guard;
        Ok::<_, Infallible>(chunk)
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(chunks)).into_response()
}
