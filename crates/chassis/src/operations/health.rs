//! Liveness, readiness, and health in the format of the original system.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use phase6_telemetry::StatusClass;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{NO_STORE, ServiceState};

/// Reports that the process is running.
#[utoipa::path(get, path = "/livez", tag = "operations",
    responses((status = 200, description = "The process is running", body = str)))]
pub(super) async fn livez() -> Response {
    ([NO_STORE], "ok\n").into_response()
}

/// Reports whether the service accepts requests. Does not depend on Redis or the database: requests that need
/// neither are still served.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "Ready", body = str), (status = 503, description = "Not ready", body = str)))]
pub(super) async fn readyz(State(state): State<Arc<ServiceState>>) -> Response {
    if state.is_ready() {
        ([NO_STORE], "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], "not ready\n").into_response()
    }
}

/// Health of the service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Health {
    /// True if the service is ready.
    ok: bool,
    service: String,
    #[schema(value_type = String)]
    time: Timestamp,
    /// Time since the start, in milliseconds.
    uptime: u64,
    ready: bool,
    metrics: HealthMetrics,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HealthMetrics {
    /// Requests since the start.
    requests: u64,
    successful_requests: u64,
    /// Requests with a 5xx response.
    errors: u64,
    /// Mean latency over the last minute, in milliseconds.
    avg_latency: f64,
    /// Number of 4xx and 5xx responses by status class.
    #[schema(value_type = Object)]
    errors_by_code: Value,
}

/// Returns the health in the format of the original system, with status 503 if the service is not ready.
#[utoipa::path(get, path = "/health", tag = "operations",
    responses((status = 200, body = Health), (status = 503, description = "Not ready", body = Health)))]
pub(super) async fn health(State(state): State<Arc<ServiceState>>) -> Response {
    let by_class = state.telemetry.metrics().by_status_class();
    let (requests, errors) = (by_class.total(), by_class.get(StatusClass::ServerError));
    let ready = state.is_ready();
    let body = Health {
        ok: ready,
        service: state.server_name(),
        time: state.clock.now(),
        uptime: state.uptime_ms(),
        ready,
        metrics: HealthMetrics {
            requests,
            successful_requests: requests - errors,
            errors,
            avg_latency: state.telemetry.snapshot().traffic.avg_latency,
            errors_by_code: [StatusClass::ClientError, StatusClass::ServerError]
                .into_iter()
                .filter(|class| by_class.get(*class) > 0)
                .map(|class| (class.label().to_owned(), Value::from(by_class.get(class))))
                .collect(),
        },
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [NO_STORE], axum::Json(body)).into_response()
}
