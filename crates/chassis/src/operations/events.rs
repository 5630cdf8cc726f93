//! Live events of the service: `GET /api/v1/events`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use phase6_identity::Principal;
use serde::Deserialize;
use utoipa::IntoParams;

use super::ServiceState;
use crate::{ApiError, ErrorBody, LastEventId, LastEventIdHeader, Query, event_stream};

/// Selects events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    /// Topics, separated by commas. All topics of the service by default.
    topics: Option<String>,
}

/// Live events of several topics over one connection, as server-sent events: first the current state, then every
/// change, until the service stops.
#[utoipa::path(get, path = "/api/v1/events", tag = "operations", operation_id = "live_events",
    params(EventsQuery, LastEventIdHeader),
    responses((status = 200, content_type = "text/event-stream", body = str), (status = 400, body = ErrorBody),
        (status = 503, description = "Too many subscribers", body = ErrorBody)))]
pub(crate) async fn events(
    State(state): State<Arc<ServiceState>>,
    principal: Principal,
    Query(EventsQuery { topics }): Query<EventsQuery>,
    LastEventId(last): LastEventId,
) -> Result<Response, ApiError> {
    let topics: Vec<&str> = topics.as_deref().map(|topics| topics.split(',').collect()).unwrap_or_default();
    Ok(event_stream(state.events.subscribe(&principal.tenant, &topics, last)?))
}
