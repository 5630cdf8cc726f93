//! What a service says of itself, what it is built from, and what whoever runs it provides.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use phase6_breaker::Breaker;
use phase6_cache::Cache;
use phase6_catalog::Service;
use phase6_live::Live;
use phase6_otlp::Collector;
use phase6_redis::{RedisError, RedisUrl};
use phase6_store::{DatabaseUrl, Migration, Store, StoreError};
use phase6_telemetry::Telemetry;
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    Access, Components, ConnectionLimits, Enforcer, Upstream,
    common::{Common, Domain},
    settings::Settings,
};

/// What a service needs from whoever runs it.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// Records, with these migrations.
    pub store: Option<&'static [Migration]>,
    /// Names under which it counts requests that none of its routes matches; it then has a fallback
    /// route. Without it such requests are refused with 404.
    pub fallback_labels: Option<fn() -> Vec<String>>,
}

/// A service: its row of the catalog, its needs, and its routes.
#[derive(Clone, Copy)]
pub struct Definition {
    /// Name, port, peers and purpose.
    pub service: &'static Service,
    /// State of its own endpoints.
    pub domain: Domain,
    /// Resources that it needs.
    pub needs: Needs,
    /// Makes its routes.
    pub build: fn(Kit) -> BoxFuture<'static, Result<OpenApiRouter, StartError>>,
}

/// What a service's routes are built from.
#[derive(Clone)]
pub struct Kit {
    /// Its records, if it needs any.
    pub store: Option<Store>,
    /// Its response cache, to make answers invalid.
    pub cache: Cache,
    /// Where it registers its parts.
    pub components: Components,
    /// The policy in force.
    pub enforcer: Enforcer,
    /// The peers that it needs, by name.
    pub peers: HashMap<&'static str, Upstream>,
    /// Its figures.
    pub telemetry: Arc<Telemetry>,
    /// Its settings, by name.
    pub settings: Settings,
    /// Told when the service stops.
    pub stop: CancellationToken,
    /// Tasks to be waited for when it stops.
    pub tasks: TaskTracker,
    pub(super) observability: Observe,
}

/// Gives what `/api/v1/system/observability` shows.
#[derive(Clone, Default)]
pub(super) struct Observe(pub(super) Arc<OnceLock<Weak<Common>>>);

impl Kit {
    /// A breaker around a provider, under the policy in force. [`Kit::show_breaker`] shows it.
    pub fn breaker(&self, name: &str) -> Breaker {
        Breaker::new(name, self.enforcer.breaker())
    }

    /// Shows a breaker among the service's parts. One that can never see a call is better not shown.
    pub fn show_breaker(&self, breaker: &Breaker) {
        self.components.register_breaker(breaker);
    }

    /// What the service's parts show.
    pub fn observability(&self) -> Value {
        let common = self.observability.0.get().and_then(Weak::upgrade);
        common.map_or(Value::Null, |common| common.observability())
    }

    /// The records of a service that says it needs them.
    ///
    /// # Errors
    ///
    /// It does not say so.
    pub fn need_store(&self) -> Result<Store, StartError> {
        self.store.clone().ok_or(StartError::Missing("records"))
    }

    /// A peer of a service that says it needs it.
    ///
    /// # Errors
    ///
    /// It does not say so.
    pub fn need_peer(&self, name: &'static str) -> Result<Upstream, StartError> {
        self.peers.get(name).cloned().ok_or(StartError::Missing(name))
    }
}

/// What whoever runs services gives to them.
#[derive(Clone)]
pub struct Host {
    /// By what callers are recognised.
    pub access: Access,
    /// Where records are.
    pub database: DatabaseUrl,
    /// How long to wait for records that cannot be reached yet when a service starts.
    pub patience: Duration,
    /// What replicas share limits and cached answers through; none: each has a part of every limit, and a
    /// cache of its own.
    pub redis: Option<RedisUrl>,
    /// Where finished spans go; none: only the newest are kept, in memory.
    pub spans: Option<Collector>,
    /// Under which name they do; none: the service's.
    pub shared_as: Option<String>,
    /// Where a service without a shared cache keeps its own; none: in memory only.
    pub cache_folder: Option<PathBuf>,
    /// Addresses (`host:port`) of services by name. They may change while services run.
    pub peers: HashMap<String, Live<Vec<String>>>,
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// Settings for services.
    pub settings: Settings,
    /// The program's version.
    pub version: &'static str,
}

impl Host {
    /// An enforcer for a service that it will run.
    pub fn enforcer(&self) -> Enforcer {
        Enforcer::new(self.redis.is_some())
    }
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The records cannot be used.
    #[error("{service}: cannot use {database}")]
    Store {
        /// The service.
        service: &'static str,
        /// Where they should be.
        database: String,
        /// What is wrong.
        #[source]
        source: StoreError,
    },
    /// A setting has no usable value.
    #[error("setting {name} is not usable: {accepted}")]
    Setting {
        /// The variable.
        name: String,
        /// What would be accepted.
        accepted: String,
    },
    /// The client of Redis cannot be made.
    #[error("cannot use Redis")]
    Redis(#[source] RedisError),
    /// A definition does not say what its routes take: a bug.
    #[error("a service takes {0} and does not say that it needs it")]
    Missing(&'static str),
    /// The listening socket broke.
    #[error("cannot listen")]
    Listen(#[source] std::io::Error),
}
