//! Status, observability, and the state of the policy.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use phase6_telemetry::{EndpointStats, StatusClass};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{ComponentKind, NO_STORE, ServiceState};
use crate::{PolicyState, Reply, server::ConnectionSnapshot};

#[derive(Serialize, ToSchema)]
pub(super) struct PolicyResponse {
    service: String,
    #[serde(flatten)]
    state: PolicyState,
}

/// Returns the state of the active policy.
#[utoipa::path(get, path = "/policyz", tag = "operations", responses((status = 200, body = PolicyResponse)))]
pub(super) async fn policyz(State(state): State<Arc<ServiceState>>) -> Response {
    let body = PolicyResponse { service: state.name.to_owned(), state: state.enforcer.state() };
    ([NO_STORE], axum::Json(body)).into_response()
}

/// Status of the service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    service: String,
    version: String,
    /// `built`, or `not built` for a service whose own endpoints do not exist yet.
    domain: &'static str,
    /// Time since the start, in milliseconds.
    uptime: u64,
    ready: bool,
    metrics: StatusMetrics,
    /// Kind and name of every component of the service.
    #[schema(value_type = Vec<Object>)]
    components: Value,
    policy: PolicyState,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatusMetrics {
    /// Requests since the start.
    total_requests: u64,
    /// Requests with a 5xx response since the start.
    total_errors: u64,
    /// Fraction of the last minute's requests with a 5xx response, from 0 to 1.
    error_rate: f64,
    /// Mean latency over the last minute, in milliseconds.
    avg_latency: f64,
    /// The ten busiest endpoints since the start.
    #[schema(value_type = Vec<Object>)]
    top_endpoints: Vec<EndpointStats>,
}

/// Returns version, readiness, traffic, components and policy of the service.
#[utoipa::path(get, path = "/api/v1/status", tag = "operations", responses((status = 200, body = Status)))]
pub(super) async fn status(State(state): State<Arc<ServiceState>>) -> Response {
    let by_class = state.telemetry.metrics().by_status_class();
    let traffic = state.telemetry.snapshot().traffic;
    let body = Reply::new(Status {
        service: state.server_name(),
        version: state.version.to_owned(),
        domain: state.domain.as_str(),
        uptime: state.uptime_ms(),
        ready: state.is_ready(),
        metrics: StatusMetrics {
            total_requests: by_class.total(),
            total_errors: by_class.get(StatusClass::ServerError),
            error_rate: traffic.error_rate,
            avg_latency: traffic.avg_latency,
            top_endpoints: state.telemetry.metrics().busiest_endpoints(10),
        },
        components: state.components.names(),
        policy: state.enforcer.state(),
    });
    ([NO_STORE], body).into_response()
}

/// Returns the snapshots of tracer, circuit breakers, peers, cache, rate limiter, database and connections.
#[utoipa::path(get, path = "/api/v1/system/observability", tag = "operations",
    responses((status = 200, body = Reply<Object>)))]
pub(super) async fn observability(State(state): State<Arc<ServiceState>>) -> Response {
    ([NO_STORE], Reply::new(state.observability())).into_response()
}

/// Client connections, and the requests on them that were rejected for lack of capacity.
#[derive(Serialize)]
struct Connections {
    #[serde(flatten)]
    counts: ConnectionSnapshot,
    /// Requests rejected because the concurrency limit was reached.
    shed: u64,
}

impl ServiceState {
    /// Returns the snapshots of all components. Latencies are in milliseconds, throughput is in requests per
    /// second over the last minute, rates are from 0 to 1.
    pub(crate) fn observability(&self) -> Value {
        let components = &self.components;
        let mut value = json!({
            "service": self.server_name(),
            "timestamp": self.clock.now(),
            "tracer": self.telemetry.snapshot(),
            "circuitBreakers": components.snapshots(ComponentKind::CircuitBreaker),
            "peers": components.snapshots(ComponentKind::Peer),
            "cache": components.only_snapshot(ComponentKind::Cache),
            "rateLimiter": components.only_snapshot(ComponentKind::RateLimiter),
            "database": components.only_snapshot(ComponentKind::Database),
            "jobs": components.snapshots(ComponentKind::Job),
            "policy": self.enforcer.state(),
            "connections": Connections {
                counts: self.connections.snapshot(),
                shed: self.concurrency.shed(),
            },
        });
        let others = components.snapshots(ComponentKind::Other);
        if let (Value::Object(fields), false) = (&mut value, others.is_empty()) {
            fields.extend(others);
        }
        value
    }
}
