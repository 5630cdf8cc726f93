//! The endpoints that every service has: health, metrics, policy, description, status,
//! observability. Making cached answers invalid is in [`crate::purge`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY},
};
use jiff::Timestamp;
use phase6_cache::Cache;
use phase6_telemetry::{EndpointStats, OPENMETRICS_CONTENT_TYPE, StatusClass, Telemetry};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Components, Enforcer, Kind, Reply, enforce::PolicyState, purge, server::ConnectionCounts, stack::Load,
};

/// Whether a service has its own endpoints yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// It has.
    Built,
    /// It answers what every service answers, and nothing else.
    NotBuilt,
}

impl Domain {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Built => "built",
            Self::NotBuilt => "not built",
        }
    }
}

/// What the endpoints speak of.
pub(crate) struct Common {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) domain: Domain,
    pub(crate) started: Instant,
    pub(crate) ready: AtomicBool,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) enforcer: Enforcer,
    pub(crate) components: Components,
    pub(crate) connections: Arc<ConnectionCounts>,
    pub(crate) load: Arc<Load>,
    pub(crate) cache: Cache,
    pub(crate) openapi: String,
}

const NO_STORE: (http::HeaderName, &str) = (CACHE_CONTROL, "no-store");

/// The routes, and their part of the description.
pub(crate) fn routes() -> OpenApiRouter<Arc<Common>> {
    OpenApiRouter::new()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(health))
        .routes(routes!(metrics))
        .routes(routes!(policyz))
        .routes(routes!(openapi))
        .routes(routes!(status))
        .routes(routes!(observability))
        .routes(routes!(purge::purge))
}

/// Whether the process runs.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = 200, description = "It does", body = str)))]
async fn livez() -> Response {
    ([NO_STORE], "ok\n").into_response()
}

/// Whether requests should be sent here. Not a question of Redis or of the database: what can be
/// answered without them still is.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "They should", body = str), (status = 503, description = "They should not", body = str)))]
async fn readyz(State(common): State<Arc<Common>>) -> Response {
    if common.is_ready() {
        ([NO_STORE], "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], "not ready\n").into_response()
    }
}

/// Health in the form that the system before this one had.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Health {
    /// Whether the service is ready.
    ok: bool,
    service: String,
    #[schema(value_type = String)]
    time: Timestamp,
    /// Milliseconds since the start.
    uptime: u64,
    ready: bool,
    metrics: HealthMetrics,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HealthMetrics {
    requests: u64,
    successful_requests: u64,
    /// Requests answered with 5xx.
    errors: u64,
    /// Milliseconds, over the last minute.
    avg_latency: f64,
    /// Requests by status class.
    #[schema(value_type = Object)]
    errors_by_code: Value,
}

/// Health in the form that the system before this one had; 503 when the service is not ready.
#[utoipa::path(get, path = "/health", tag = "operations",
    responses((status = 200, body = Health), (status = 503, description = "Not ready", body = Health)))]
async fn health(State(common): State<Arc<Common>>) -> Response {
    let by_class = common.telemetry.metrics().by_status_class();
    let (requests, errors) = (by_class.total(), by_class.get(StatusClass::ServerError));
    let ready = common.is_ready();
    let body = Health {
        ok: ready,
        service: common.service(),
        time: Timestamp::now(),
        uptime: common.uptime_ms(),
        ready,
        metrics: HealthMetrics {
            requests,
            successful_requests: requests - errors,
            errors,
            avg_latency: common.telemetry.snapshot().traffic.avg_latency,
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

/// Every series in Prometheus' text format, or in that of `OpenMetrics` where that is asked for.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = str)))]
async fn metrics(State(common): State<Arc<Common>>, headers: HeaderMap) -> Response {
    let metrics = common.telemetry.metrics();
    let (kind, text) = if asks_for_openmetrics(&headers) {
        (OPENMETRICS_CONTENT_TYPE, metrics.openmetrics())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", metrics.text())
    };
    ([(CONTENT_TYPE, kind), NO_STORE, (VARY, "accept")], text).into_response()
}

/// Whoever names the newer format prefers it: nobody gets it who does not know it.
fn asks_for_openmetrics(headers: &HeaderMap) -> bool {
    let named =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("application/openmetrics-text"));
    headers.get_all(ACCEPT).iter().any(named)
}

#[derive(Serialize, ToSchema)]
struct PolicyAnswer {
    service: String,
    #[serde(flatten)]
    state: PolicyState,
}

/// Which policy is in force here.
#[utoipa::path(get, path = "/policyz", tag = "operations", responses((status = 200, body = PolicyAnswer)))]
async fn policyz(State(common): State<Arc<Common>>) -> Response {
    let body = PolicyAnswer { service: common.name.to_owned(), state: common.enforcer.state() };
    ([NO_STORE], axum::Json(body)).into_response()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, body = Object)))]
async fn openapi(State(common): State<Arc<Common>>) -> Response {
    ([(CONTENT_TYPE, "application/json")], common.openapi.clone()).into_response()
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Status {
    service: String,
    version: String,
    /// `built`, or `not built` for a service whose own endpoints do not exist yet.
    domain: &'static str,
    /// Milliseconds since the start.
    uptime: u64,
    ready: bool,
    metrics: StatusMetrics,
    /// The parts of the service, by kind and name.
    #[schema(value_type = Vec<Object>)]
    components: Value,
    policy: PolicyState,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatusMetrics {
    total_requests: u64,
    /// Requests answered with 5xx.
    total_errors: u64,
    /// Share of the last minute's requests answered with 5xx, from 0 to 1.
    error_rate: f64,
    /// Milliseconds, over the last minute.
    avg_latency: f64,
    /// The ten busiest endpoints since the start.
    #[schema(value_type = Vec<Object>)]
    top_endpoints: Vec<EndpointStats>,
}

/// What the service is and how it does.
#[utoipa::path(get, path = "/api/v1/status", tag = "operations", responses((status = 200, body = Status)))]
async fn status(State(common): State<Arc<Common>>) -> Response {
    let by_class = common.telemetry.metrics().by_status_class();
    let traffic = common.telemetry.snapshot().traffic;
    let body = Reply::new(Status {
        service: common.service(),
        version: common.version.to_owned(),
        domain: common.domain.as_str(),
        uptime: common.uptime_ms(),
        ready: common.is_ready(),
        metrics: StatusMetrics {
            total_requests: by_class.total(),
            total_errors: by_class.get(StatusClass::ServerError),
            error_rate: traffic.error_rate,
            avg_latency: traffic.avg_latency,
            top_endpoints: common.telemetry.metrics().busiest_endpoints(10),
        },
        components: common.components.names(),
        policy: common.enforcer.state(),
    });
    ([NO_STORE], body).into_response()
}

/// What the service's tracer, breakers, cache, limiter and database show.
#[utoipa::path(get, path = "/api/v1/system/observability", tag = "operations",
    responses((status = 200, body = Reply<Object>)))]
async fn observability(State(common): State<Arc<Common>>) -> Response {
    ([NO_STORE], Reply::new(common.observability())).into_response()
}

impl Common {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn service(&self) -> String {
        format!("{}-server", self.name)
    }

    fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// What every part shows. Latencies are milliseconds, throughput is requests per second of the
    /// last minute, shares are from 0 to 1.
    pub(crate) fn observability(&self) -> Value {
        let only =
            |kind| self.components.shown(kind).into_iter().next().map_or(json!({}), |(_, shown)| shown);
        let mut value = json!({
            "service": self.service(),
            "timestamp": Timestamp::now(),
            "tracer": self.telemetry.snapshot(),
            "circuitBreakers": self.components.shown(Kind::CircuitBreaker),
            "peers": self.components.shown(Kind::Peer),
            "cache": only(Kind::Cache),
            "rateLimiter": only(Kind::RateLimiter),
            "database": only(Kind::Database),
            "policy": self.enforcer.state(),
            "connections": {
                "open": self.connections.open.load(Ordering::Relaxed),
                "accepted": self.connections.accepted.load(Ordering::Relaxed),
                "refused": self.connections.refused.load(Ordering::Relaxed),
                "timedOut": self.connections.timed_out.load(Ordering::Relaxed),
                "shed": self.load.shed(),
            },
        });
        let other = self.components.shown(Kind::Other);
        if let (Value::Object(all), false) = (&mut value, other.is_empty()) {
            all.extend(other);
        }
        value
    }
}
