//! The definition of a service, the resources that its routes are built from, and those that the process
//! provides.

use std::{
    collections::HashMap,
    error::Error,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use phase6_breaker::Breaker;
use phase6_cache::Cache;
use phase6_catalog::Service;
use phase6_events::Hub;
use phase6_jobs::Jobs;
use phase6_live::Live;
use phase6_otlp::Collector;
use phase6_redis::{RedisError, RedisUrl};
use phase6_store::{DatabaseUrl, Migration, Store, StoreError};
use phase6_telemetry::Telemetry;
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    Access, Clock, Components, ConnectionLimits, Domain, Enforcer, Environment, InvalidSettings, Setting,
    Settings, Upstream, operations::ServiceState,
};

/// Resources that a service needs.
#[derive(Clone, Copy)]
pub struct Needs {
    /// Migrations of its database; `None` if it needs no database.
    pub store: Option<&'static [Migration]>,
    /// Route labels of requests that no route matches, for a service with a fallback route. Without it such
    /// requests are rejected with 404.
    pub fallback_labels: Option<fn() -> Vec<String>>,
    /// Settings that the service reads.
    pub settings: &'static [Setting],
}

impl Needs {
    /// No resources.
    pub const NOTHING: Self = Self { store: None, fallback_labels: None, settings: &[] };
}

/// A service: its row of the catalog, its needs, and its routes.
#[derive(Clone, Copy)]
pub struct Definition {
    /// Name, port, peers and purpose.
    pub service: &'static Service,
    /// Implementation state of its own endpoints.
    pub domain: Domain,
    /// Resources that it needs.
    pub needs: Needs,
    /// Builds its routes.
    pub build: fn(Kit) -> BoxFuture<'static, Result<OpenApiRouter, StartError>>,
}

impl Definition {
    /// Defines a service whose own endpoints do not exist yet.
    pub const fn not_built(service: &'static Service) -> Self {
        Self {
            service,
            domain: Domain::NotBuilt,
            needs: Needs::NOTHING,
            build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
        }
    }

    /// Takes the values of the service's settings from the environment.
    ///
    /// # Errors
    ///
    /// Values of the wrong type or out of bounds: all of them.
    pub fn read_settings(&self, environment: &Environment) -> Result<Settings, StartError> {
        Settings::new(self.needs.settings, environment)
            .map_err(|invalid| StartError::Settings { service: self.service.name, invalid })
    }
}

/// The resources that a service's routes are built from.
#[derive(Clone)]
pub struct Kit {
    /// Database, if the service needs one.
    pub store: Option<Store>,
    /// Response cache, for invalidations.
    pub cache: Cache,
    /// Registry of the service's components.
    pub components: Components,
    /// Holder of the active policy.
    pub enforcer: Enforcer,
    /// Peers of the service by name.
    pub peers: HashMap<&'static str, Upstream>,
    /// Metrics and traces.
    pub telemetry: Arc<Telemetry>,
    /// Values of the declared settings.
    pub settings: Settings,
    /// Wall clock.
    pub clock: Clock,
    /// Cancelled when the service shuts down.
    pub stop: CancellationToken,
    /// Periodic work of the service.
    pub jobs: Jobs,
    /// Live events of this replica.
    pub events: Hub,
    /// Tasks that a shutdown waits for.
    pub tasks: TaskTracker,
    pub(super) state: LateState,
}

/// State of the service, which exists only after its routes are built.
#[derive(Clone, Default)]
pub(super) struct LateState(pub(super) Arc<OnceLock<Weak<ServiceState>>>);

impl Kit {
    /// Creates a circuit breaker around a provider, with the settings of the active policy.
    /// [`Kit::show_breaker`] shows it.
    pub fn breaker(&self, name: &str) -> Breaker {
        Breaker::new(name, self.enforcer.breaker())
    }

    /// Shows a circuit breaker among the service's components. One that can never receive a call should not be
    /// shown.
    pub fn show_breaker(&self, breaker: &Breaker) {
        self.components.register_breaker(breaker);
    }

    /// Returns the snapshots of all components; null before the service has started.
    pub fn observability(&self) -> Value {
        let state = self.state.0.get().and_then(Weak::upgrade);
        state.map_or(Value::Null, |state| state.observability())
    }

    /// Returns the database.
    ///
    /// # Errors
    ///
    /// The definition does not declare that the service needs one.
    pub fn need_store(&self) -> Result<Store, StartError> {
        self.store.clone().ok_or(StartError::Undeclared("a database"))
    }

    /// Returns a peer.
    ///
    /// # Errors
    ///
    /// The catalog does not list it among the peers of the service.
    pub fn need_peer(&self, name: &'static str) -> Result<Upstream, StartError> {
        self.peers.get(name).cloned().ok_or(StartError::Undeclared(name))
    }
}

/// Everything that the process provides to the services that it runs.
#[derive(Clone)]
pub struct Host {
    /// Credentials and proxies by which callers are identified.
    pub access: Access,
    /// Address of the database.
    pub database: DatabaseUrl,
    /// Longest wait for a database that is unavailable at the start.
    pub store_wait: Duration,
    /// Redis through which replicas share limits and cached responses. Without it each replica enforces its
    /// share of every limit, and has its own cache.
    pub redis: Option<RedisUrl>,
    /// Collector of finished spans. Without it only the latest spans are kept, in memory.
    pub collector: Option<Collector>,
    /// Name under which replicas share limits and cached responses; `None` for the service's name.
    pub shared_as: Option<String>,
    /// Folder for the cache of a service without Redis; `None` for a cache in memory only.
    pub cache_folder: Option<PathBuf>,
    /// Addresses (`host:port`) of services by name. They may change while services run.
    pub peers: HashMap<String, Live<Vec<String>>>,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// Environment variables, from which services take their settings.
    pub environment: Environment,
    /// Wall clock.
    pub clock: Clock,
    /// Version of the program.
    pub version: &'static str,
}

impl Host {
    /// Creates the enforcer of a service on this host.
    pub fn enforcer(&self) -> Enforcer {
        Enforcer::with_clock(self.redis.is_some(), self.clock.clone())
    }
}

/// Failure to start a service.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be used.
    #[error("{service}: cannot use {database}")]
    Store {
        /// Name of the service.
        service: &'static str,
        /// Address of the database.
        database: String,
        /// Cause of the failure.
        #[source]
        source: StoreError,
    },
    /// Settings have values that are not accepted.
    #[error("{service}: {invalid}")]
    Settings {
        /// Name of the service.
        service: &'static str,
        /// The settings.
        invalid: InvalidSettings,
    },
    /// The Redis client cannot be created.
    #[error("cannot use Redis")]
    Redis(#[source] RedisError),
    /// The service uses something that its definition does not declare: a bug.
    #[error("the service uses {0}, which it does not declare")]
    Undeclared(&'static str),
    /// The listening socket failed.
    #[error("cannot listen")]
    Listen(#[source] std::io::Error),
    /// The service cannot create something that it needs.
    #[error("{service}: cannot create {object}")]
    Create {
        /// Name of the service.
        service: &'static str,
        /// Object that cannot be created, with its article.
        object: &'static str,
        /// Cause of the failure.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}
