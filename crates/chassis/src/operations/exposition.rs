//! Metrics and the `OpenAPI` description.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE, VARY},
};
use phase6_telemetry::OPENMETRICS_CONTENT_TYPE;

use super::{NO_STORE, ServiceState};

/// Returns all metrics in the Prometheus text format, or in the `OpenMetrics` format if the client accepts it.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = str)))]
pub(super) async fn metrics(State(state): State<Arc<ServiceState>>, headers: HeaderMap) -> Response {
    let metrics = state.telemetry.metrics();
    let (content_type, text) = if accepts_openmetrics(&headers) {
        (OPENMETRICS_CONTENT_TYPE, metrics.openmetrics())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", metrics.text())
    };
    ([(CONTENT_TYPE, content_type), NO_STORE, (VARY, "accept")], text).into_response()
}

/// True if the client names the `OpenMetrics` format. Quality values are not compared: a client that names
/// the format prefers it.
fn accepts_openmetrics(headers: &HeaderMap) -> bool {
    let names_it =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("application/openmetrics-text"));
    headers.get_all(ACCEPT).iter().any(names_it)
}

/// Returns this description.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, body = Object)))]
pub(super) async fn openapi(State(state): State<Arc<ServiceState>>) -> Response {
    ([(CONTENT_TYPE, "application/json")], state.openapi.clone()).into_response()
}
