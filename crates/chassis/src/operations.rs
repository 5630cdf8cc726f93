//! The endpoints that every service has, and the state that they show.
//!
//! | Module | Endpoints |
//! |---|---|
//! | [`health`] | `/livez`, `/readyz`, `/health` |
//! | [`status`] | `/api/v1/status`, `/api/v1/system/observability`, `/policyz` |
//! | [`exposition`] | `/metrics`, `/openapi.json` |
//! | [`purge`] | `/api/v1/cache/invalidate` |
//! | [`keys`] | `/api/v1/keys` |
//! | [`events`] | `/api/v1/events` |
//!
//! [`components`], [`jobs`] and [`series`] collect the snapshots and the metric series of the parts of a service;
//! [`describe`] completes the `OpenAPI` description.

mod components;
pub(crate) mod describe;
mod events;
mod exposition;
mod health;
mod jobs;
mod keys;
mod purge;
mod series;
mod status;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use http::{HeaderName, header::CACHE_CONTROL};
use phase6_cache::Cache;
use phase6_events::Hub;
use phase6_identity::{Keys, Role};
use phase6_jobs::Jobs;
use phase6_telemetry::Telemetry;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::components::{ComponentKind, Components};
pub(crate) use self::{jobs::register_jobs, series::Registrar};
use crate::{Clock, Enforcer, require, require_in_fleet, server::ConnectionCounts, stack::ConcurrencyLimit};

const NO_STORE: (HeaderName, &str) = (CACHE_CONTROL, "no-store");

/// Implementation state of a service's own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// The service has its own endpoints.
    Built,
    /// The service has only the endpoints that every service has.
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

/// State of a running service that its operational endpoints show.
pub(crate) struct ServiceState {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) domain: Domain,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) is_ready: AtomicBool,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) enforcer: Enforcer,
    pub(crate) components: Components,
    pub(crate) jobs: Jobs,
    pub(crate) connections: Arc<ConnectionCounts>,
    pub(crate) concurrency: Arc<ConcurrencyLimit>,
    pub(crate) cache: Cache,
    /// The `OpenAPI` description as JSON.
    pub(crate) openapi: String,
    /// Live events of this replica.
    pub(crate) events: Hub,
    /// API keys of the fleet.
    pub(crate) keys: Keys,
}

/// Returns the routes and their part of the description.
pub(crate) fn routes() -> OpenApiRouter<Arc<ServiceState>> {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::health))
        .routes(routes!(exposition::metrics))
        .routes(routes!(status::policyz))
        .routes(routes!(exposition::openapi))
        .routes(routes!(status::status))
        // Lists the paths of requests, of all tenants.
        .routes(require_in_fleet(Role::Reader, routes!(status::observability)))
        .routes(routes!(events::events))
        .routes(require_in_fleet(Role::Admin, routes!(purge::purge)))
        .routes(require(Role::Admin, routes!(keys::list, keys::create)))
        .routes(require(Role::Admin, routes!(keys::revoke)))
}

impl ServiceState {
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Name of the service as clients of the original system know it.
    fn server_name(&self) -> String {
        format!("{}-server", self.name)
    }

    fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}
