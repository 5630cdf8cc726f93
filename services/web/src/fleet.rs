//! Endpoints about the whole fleet. All services are queried concurrently, each with a deadline, and the
//! ones that do not respond are named in the response.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::IntoResponse};
use futures_util::future::join_all;
use http::header::CACHE_CONTROL;
use phase6_chassis::{ApiError, Query, Reply, Upstream, catalog};
use serde_json::{Map, Value, json};
use utoipa::IntoParams;

use crate::gateway::{Gateway, Route};

/// Longest wait for one service.
const DEADLINE: Duration = Duration::from_secs(2);

const NO_STORE: [(http::HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// Reports that the gateway runs, with the server's time.
#[utoipa::path(get, path = "/api/v1/health", tag = "gateway", operation_id = "web_health",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn health(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    (NO_STORE, Reply::new(json!({"server": "web", "time": gateway.kit.clock.now()})))
}

/// Lists the forwarded path prefixes, with the service and the endpoints behind each.
#[utoipa::path(get, path = "/api/v1/system/routes", tag = "gateway",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn routes(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let describe = |route: &Route| {
        json!({
            "name": route.service.name,
            "prefixes": route.service.prefixes,
            "endpoints": addresses(&route.upstream),
        })
    };
    let routes: Vec<Value> = gateway.routes.iter().map(describe).collect();
    (NO_STORE, Reply::new(json!({"routes": routes})))
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    upstream.snapshot().into_iter().map(|endpoint| endpoint.address).collect()
}

/// Reports which services are ready.
#[utoipa::path(get, path = "/system/status", tag = "gateway", operation_id = "fleet_status",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn status(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let upstreams = || gateway.routes.iter().map(|route| &route.upstream);
    let ready = join_all(upstreams().map(|upstream| upstream.is_ready(DEADLINE))).await;
    let mut services: Map<String, Value> =
        upstreams().zip(ready).map(|(upstream, ready)| (upstream.name().to_owned(), ready.into())).collect();
    services.insert("web".into(), true.into());
    let missing: Vec<_> =
        services.iter().filter(|(_, ready)| **ready == false).map(|(name, _)| name.clone()).collect();
    let endpoints: Map<String, Value> =
        upstreams().map(|upstream| (upstream.name().to_owned(), json!(addresses(upstream)))).collect();
    let body = json!({
        "time": gateway.kit.clock.now(),
        "services": services,
        "missing": missing,
        "endpoints": endpoints,
    });
    (NO_STORE, Reply::new(body))
}

/// Returns the observability of all services, and the error of each one that did not respond.
#[utoipa::path(get, path = "/api/v1/system/observability/fleet", tag = "gateway", operation_id = "fleet_observability",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn observability(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let fetch = |route: &Route| {
        let upstream = route.upstream.clone();
        async move {
            let result = upstream.get_json("/api/v1/system/observability", DEADLINE).await;
            (upstream.name(), result.map_err(|error| error.to_string()))
        }
    };
    let results = join_all(gateway.routes.iter().map(fetch)).await;
    let mut services = Map::new();
    services.insert("web".into(), gateway.kit.observability());
    let mut missing = Map::new();
    for (name, result) in results {
        match result {
            Ok(mut snapshot) => {
                if let Some(fields) = snapshot.as_object_mut() {
                    fields.remove("ok");
                }
                services.insert(name.into(), snapshot);
            }
            Err(error) => {
                missing.insert(name.into(), error.into());
            }
        }
    }
    let body = json!({
        "timestamp": gateway.kit.clock.now(),
        "responded": services.len(),
        "services": services,
        "missing": missing,
    });
    (NO_STORE, Reply::new(body))
}

/// Restricts a response to one service.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceFilter {
    /// Name of the only service to include.
    service: Option<String>,
}

/// Returns health, load, latency and circuit breaker of every endpoint that the gateway forwards to.
#[utoipa::path(get, path = "/api/v1/loadbalance/health", tag = "gateway", params(ServiceFilter),
    responses((status = 200, body = Reply<Object>), (status = 404, body = phase6_chassis::ErrorBody)))]
pub(crate) async fn endpoints(
    State(gateway): State<Arc<Gateway>>,
    Query(ServiceFilter { service }): Query<ServiceFilter>,
) -> Result<impl IntoResponse, ApiError> {
    let health: Map<String, Value> = gateway
        .routes
        .iter()
        .map(|route| &route.upstream)
        .filter(|upstream| service.as_deref().is_none_or(|wanted| wanted == upstream.name()))
        .map(|upstream| {
            let breakers = upstream.breakers().into_iter();
            let breakers: Map<String, Value> =
                breakers.map(|(name, breaker)| (name, json!(breaker.snapshot()))).collect();
            (
                upstream.name().to_owned(),
                json!({"endpoints": upstream.snapshot(), "circuitBreakers": breakers}),
            )
        })
        .collect();
    if health.is_empty() {
        let peers: Vec<_> = catalog::Service::named("web").peers().map(|peer| peer.name).collect();
        let message = format!("service is {:?}; accepted: {}", service.unwrap_or_default(), peers.join(", "));
        return Err(ApiError::not_found(message));
    }
    Ok((NO_STORE, Reply::new(json!({"health": health}))))
}
