//! Live events: a summary of providers, budget, prices and policy.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use jiff::Timestamp;
use phase6_chassis::{ApiError, ErrorBody, LastEventId, LastEventIdHeader, Principal, event_stream};
use serde::Serialize;

use super::{
    budget::DailySpending,
    names::by_name,
    policy::ProviderPolicy,
    providers::{ProviderStatus, status_by_name},
    response::uncacheable,
};
use crate::app::{AppState, Summary, TOPIC};

#[derive(Serialize)]
struct SummaryBody {
    timestamp: Timestamp,
    providers: BTreeMap<&'static str, ProviderStatus>,
    /// Spending of the current UTC day; null if the database cannot be reached.
    budget: Option<DailySpending>,
    /// Null if the database can be reached.
    error: Option<&'static str>,
    /// Price of a call by provider, in dollars.
    costs: BTreeMap<&'static str, f64>,
    policy: ProviderPolicy,
}

impl From<Summary> for SummaryBody {
    fn from(summary: Summary) -> Self {
        Self {
            timestamp: summary.at,
            providers: status_by_name(summary.providers),
            error: summary.spending.is_none().then_some("the database cannot be reached now"),
            budget: summary.spending.map(Into::into),
            costs: by_name(|id| summary.prices.of(id).per_call.dollars()),
            policy: summary.policy.into(),
        }
    }
}

/// Live events about providers, budget, prices and policy.
///
/// A server-sent event `summary` after every change and at least every five seconds, until the service stops.
#[utoipa::path(get, path = "/api/v1/providers/realtime", tag = "providers", params(LastEventIdHeader),
    responses((status = 200, content_type = "text/event-stream", body = str), (status = 503, body = ErrorBody)))]
pub(super) async fn realtime(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    LastEventId(last): LastEventId,
) -> Result<Response, ApiError> {
    let subscription = state.kit().events.subscribe(&principal.tenant, &[TOPIC], last)?;
    Ok(event_stream(subscription))
}

/// Writes a summary as JSON.
pub(super) fn render(summary: Summary) -> String {
    serde_json::to_string(&SummaryBody::from(summary)).unwrap_or_default()
}

/// Snapshot of `/providers/realtime`, as JSON.
#[utoipa::path(get, path = "/api/v1/providers/performance-stream", tag = "providers", responses((status = 200, body = Object)))]
pub(super) async fn performance_stream(State(state): State<Arc<AppState>>, principal: Principal) -> Response {
    uncacheable(SummaryBody::from(state.summary(&principal.tenant).await))
}
