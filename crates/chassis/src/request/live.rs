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
use phase6_events::{EventId, SubscribeError, Subscription};
use utoipa::IntoParams;

use super::ApiError;

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

/// Returns the response to a subscriber.
pub fn event_stream(subscription: Subscription) -> Response {
    let chunks = subscription.into_stream().map(Ok::<_, Infallible>);
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(chunks)).into_response()
}

impl From<SubscribeError> for ApiError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::UnknownTopic { unknown, topics } => {
                let accepted = if topics.is_empty() { "none".to_owned() } else { topics.join(", ") };
                let message =
                    format!("query parameter topics: {unknown:?} is not a topic; accepted: {accepted}");
                Self::bad_request("invalid_query", message)
            }
            SubscribeError::TooManyWatchers { limit } => {
                let message = format!("{limit} watchers are already connected");
                Self::unavailable("too_many_watchers", message, 5)
            }
        }
    }
}
