//! What is known of all eight services together. Every question to a peer has a deadline, all are
//! asked at once, and who does not answer is named.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::IntoResponse};
use futures_util::future::join_all;
use http::header::CACHE_CONTROL;
use jiff::Timestamp;
use phase6_chassis::{ApiError, Query, Reply, Upstream};
use serde_json::{Map, Value, json};
use utoipa::IntoParams;

use crate::{
    gateway::Gateway,
    table::{PEERS, TABLE},
};

/// Longest wait for a peer's own figures.
const DEADLINE: Duration = Duration::from_secs(2);

const NO_STORE: [(http::HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// Whether the gateway runs.
#[utoipa::path(get, path = "/api/v1/health", tag = "gateway", operation_id = "web_health",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn health() -> impl IntoResponse {
    (NO_STORE, Reply::new(json!({"server": "web", "time": Timestamp::now()})))
}

/// Which prefix is forwarded to which service, and where that is.
#[utoipa::path(get, path = "/api/v1/system/routes", tag = "gateway",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn routes(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let of = |(index, name): (usize, &&str)| {
        let prefixes: Vec<_> =
            TABLE.iter().filter(|(_, peer)| *peer == index).map(|(prefix, _)| *prefix).collect();
        let endpoints: Vec<_> =
            gateway.upstreams[index].snapshot().into_iter().map(|endpoint| endpoint.address).collect();
        json!({"name": name, "prefixes": prefixes, "endpoints": endpoints})
    };
    let routes: Vec<Value> = PEERS.iter().enumerate().map(of).collect();
    (NO_STORE, Reply::new(json!({"routes": routes})))
}

/// Which services are ready.
#[utoipa::path(get, path = "/system/status", tag = "gateway", operation_id = "fleet_status",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn status(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let ready = join_all(gateway.upstreams.iter().map(|peer| peer.is_ready(DEADLINE))).await;
    let mut services: Map<String, Value> =
        PEERS.iter().zip(ready).map(|(name, ready)| ((*name).to_owned(), ready.into())).collect();
    services.insert("web".into(), true.into());
    let missing: Vec<_> =
        services.iter().filter(|(_, ready)| **ready == false).map(|(name, _)| name.clone()).collect();
    let endpoints: Map<String, Value> = gateway
        .upstreams
        .iter()
        .map(|peer| {
            (
                peer.name().to_owned(),
                json!(peer.snapshot().iter().map(|e| e.address.clone()).collect::<Vec<_>>()),
            )
        })
        .collect();
    let body = json!({
        "time": Timestamp::now(),
        "services": services,
        "missing": missing,
        "endpoints": endpoints,
    });
    (NO_STORE, Reply::new(body))
}

/// The observability of all eight, and who did not answer.
#[utoipa::path(get, path = "/api/v1/system/observability/fleet", tag = "gateway", operation_id = "fleet_observability",
    responses((status = 200, body = Reply<Object>)))]
pub(crate) async fn observability(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let ask = |peer: &Upstream| {
        let peer = peer.clone();
        async move {
            let answer = peer.get_json("/api/v1/system/observability", DEADLINE).await;
            (peer.name(), answer.map_err(|error| error.to_string()))
        }
    };
    let answers = join_all(gateway.upstreams.iter().map(ask)).await;
    let mut services = Map::new();
    services.insert("web".into(), gateway.kit.observability());
    let mut missing = Map::new();
    for (name, answer) in answers {
        match answer {
            Ok(mut shown) => {
                if let Some(shown) = shown.as_object_mut() {
                    shown.remove("ok");
                }
                services.insert(name.into(), shown);
            }
            Err(error) => {
                missing.insert(name.into(), error.into());
            }
        }
    }
    let body = json!({
        "timestamp": Timestamp::now(),
        "answered": services.len(),
        "services": services,
        "missing": missing,
    });
    (NO_STORE, Reply::new(body))
}

/// Which service's endpoints.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Only this service.
    service: Option<String>,
}

/// Health, load, latency and breaker of every endpoint that is forwarded to.
#[utoipa::path(get, path = "/api/v1/loadbalance/health", tag = "gateway", params(Which),
    responses((status = 200, body = Reply<Object>), (status = 404, body = phase6_chassis::ErrorBody)))]
pub(crate) async fn endpoints(
    State(gateway): State<Arc<Gateway>>,
    Query(Which { service }): Query<Which>,
) -> Result<impl IntoResponse, ApiError> {
    let shown: Map<String, Value> = gateway
        .upstreams
        .iter()
        .filter(|peer| service.as_deref().is_none_or(|wanted| wanted == peer.name()))
        .map(|peer| {
            let breakers = peer.breakers().into_iter();
            let breakers: Map<String, Value> =
                breakers.map(|(name, breaker)| (name, json!(breaker.snapshot()))).collect();
            (peer.name().to_owned(), json!({"endpoints": peer.snapshot(), "circuitBreakers": breakers}))
        })
        .collect();
    if shown.is_empty() {
        let message = format!("service is {:?}; accepted: {}", service.unwrap_or_default(), PEERS.join(", "));
        return Err(ApiError::not_found(message));
    }
    Ok((NO_STORE, Reply::new(json!({"health": shown}))))
}
