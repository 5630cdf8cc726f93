//! What a service is, and how it starts and stops.

mod shared;

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::Request, response::IntoResponse};
use futures_util::future::BoxFuture;
use http::StatusCode;
use phase6_breaker::Breaker;
use phase6_cache::Cache;
use phase6_live::Live;
use phase6_otlp::{Exporter, Otlp};
use phase6_redis::{RedisError, RedisUrl};
use phase6_store::{DatabaseUrl, Migration, PoolLimits, Store, StoreError};
use phase6_telemetry::{Sink, Telemetry};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    Access, ApiError, Components, ConnectionLimits, Enforcer, Kind, Upstream,
    common::{self, Common, Domain},
    describe, series,
    server::{self, Ending},
    settings::Settings,
    stack::{Load, Parts, limiter, stack},
};

/// Rate-limit keys that a service remembers.
const BUCKETS: usize = 1 << 16;
/// Requests that a service answers at a time.
const MOST_IN_FLIGHT: usize = 2048;

/// What a service needs from whoever runs it.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// Records, with these migrations.
    pub store: Option<&'static [Migration]>,
    /// Peers that it calls.
    pub peers: &'static [&'static str],
    /// Names under which it counts the requests that no route of it matches; it then has a
    /// fallback of its own. Empty: such requests are refused with 404.
    pub labels: &'static [&'static str],
}

/// A service: name, port, routes, what it needs; nothing else.
#[derive(Clone, Copy)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// Its port.
    pub port: u16,
    /// Whether it has its own endpoints yet.
    pub domain: Domain,
    /// One sentence on what it does, for its description.
    pub about: &'static str,
    /// What it needs.
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
    observability: Observe,
}

/// Gives what `/api/v1/system/observability` shows.
#[derive(Clone, Default)]
struct Observe(Arc<std::sync::OnceLock<std::sync::Weak<Common>>>);

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
        let common = self.observability.0.get().and_then(std::sync::Weak::upgrade);
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
    pub spans: Option<Otlp>,
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

/// A running service.
pub struct Running {
    definition: Definition,
    address: SocketAddr,
    common: Arc<Common>,
    store: Option<Store>,
    cache: Cache,
    spans: Option<Arc<Exporter>>,
    ending: Ending,
    /// Ends what the service does beside answering.
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Pause between looks at how many are connected.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Pause between attempts to reach records that are not there yet.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// Starts a service on a listening socket.
///
/// # Errors
///
/// See [`StartError`]; nothing is left running.
pub async fn start(
    definition: &Definition,
    listener: TcpListener,
    host: &Host,
    enforcer: Enforcer,
) -> Result<Running, StartError> {
    let address = listener.local_addr().map_err(StartError::Listen)?;
    let name = definition.name;
    let components = Components::default();
    let store = open_store(definition, host, &components).await?;
    let shared_as = host.shared_as.as_deref().unwrap_or(name);
    let (level, limits) =
        tokio::try_join!(shared::second_level(name, shared_as, host), shared::limits(shared_as, host))?;
    let cache = Cache::new(level);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    // A service that does not come to run leaves nothing running.
    let unless_started = stop.clone().drop_guard();
    let peers = connect_peers(definition, host, &enforcer, &components, &stop, &tasks);

    let observability = Observe::default();
    let spans = host.spans.as_ref().map(|spans| Arc::new(spans.exporter(name, host.version)));
    let export = spans.clone().map(|exporter| exporter as Arc<dyn Sink>);
    let telemetry = Telemetry::new(name, host.access.internal.sampler(), export);
    let own = (definition.build)(Kit {
        store: store.clone(),
        cache: cache.clone(),
        components: components.clone(),
        enforcer: enforcer.clone(),
        peers,
        telemetry: Arc::clone(&telemetry),
        settings: host.settings.clone(),
        stop: stop.clone(),
        tasks: tasks.clone(),
        observability: observability.clone(),
    })
    .await?;
    let mut described =
        OpenApiRouter::with_openapi(describe::begin(definition, host.version)).merge(common::routes());
    let mut openapi = described.get_openapi().clone();
    openapi.merge(own.get_openapi().clone());
    describe::complete(&mut openapi);
    let labels = definition.needs.labels.iter().map(ToString::to_string);
    telemetry.metrics().declare(openapi.paths.paths.keys().cloned().chain(labels));

    let connections = Arc::default();
    let load = Arc::new(Load::new(MOST_IN_FLIGHT, host.connections.body));
    let (buckets, limiter) = limiter(BUCKETS, limits);
    let counts = limiter.clone();
    series::register_limiter(&components, &telemetry, &enforcer, buckets, move || counts.counts());
    series::register_tracer(&telemetry, spans.as_ref());
    series::register_cache(&components, &telemetry, &enforcer, &cache);

    let common = Arc::new(Common {
        name,
        version: host.version,
        domain: definition.domain,
        started: Instant::now(),
        ready: AtomicBool::new(true),
        telemetry: Arc::clone(&telemetry),
        enforcer: enforcer.clone(),
        components,
        connections: Arc::clone(&connections),
        load: Arc::clone(&load),
        cache: cache.clone(),
        openapi: openapi.to_pretty_json().unwrap_or_default(),
    });
    let _ = observability.0.set(Arc::downgrade(&common));
    series::register_series(&common);
    if definition.needs.labels.is_empty() {
        described = described.fallback(no_such_path);
    }
    let (routes, _) = described.with_state(Arc::clone(&common)).merge(own).split_for_parts();
    let router: Router = routes.method_not_allowed_fallback(no_such_method);

    let forgets = cache.clone();
    let stack =
        stack(Parts { name, router, enforcer, access: host.access.clone(), telemetry, limiter, cache, load });
    let ending = Ending::default();
    let limits = host.connections.clone();
    tasks.spawn(server::serve(
        listener,
        move |peer| stack.for_peer(peer),
        limits,
        connections,
        ending.clone(),
    ));
    unless_started.disarm();
    Ok(Running {
        definition: *definition,
        address,
        common,
        store,
        cache: forgets,
        spans,
        ending,
        stop,
        tasks,
    })
}

async fn open_store(
    definition: &Definition,
    host: &Host,
    components: &Components,
) -> Result<Option<Store>, StartError> {
    let Some(migrations) = definition.needs.store else { return Ok(None) };
    let failed =
        |source| StartError::Store { service: definition.name, database: host.database.to_string(), source };
    let due = Instant::now() + host.patience;
    let open = async || {
        let store = Store::connect(&host.database, PoolLimits::default()).await?;
        store.migrate(definition.name, migrations).await?;
        Ok(store)
    };
    let store = loop {
        match open().await {
            Ok(store) => break store,
            Err(error) if StoreError::is_unavailable(&error) && Instant::now() < due => {
                tracing::warn!(service = definition.name, %error, "waiting for the database");
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
            Err(error) => return Err(failed(error)),
        }
    };
    let shown = store.clone();
    components.register(Kind::Database, "records", move || json!(shown.snapshot()));
    Ok(Some(store))
}

fn connect_peers(
    definition: &Definition,
    host: &Host,
    enforcer: &Enforcer,
    components: &Components,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> HashMap<&'static str, Upstream> {
    let mut peers = HashMap::new();
    for name in definition.needs.peers {
        let addresses = host.peers.get(*name).cloned().unwrap_or_else(|| Live::new(vec![]));
        let token = host.access.internal.clone();
        let upstream = Upstream::new(name, &addresses.get(), &enforcer.breaker(), token);
        components.register_peer(&upstream);
        tasks.spawn(upstream.clone().tend(addresses, stop.clone()));
        peers.insert(*name, upstream);
    }
    peers
}

async fn no_such_path(request: Request) -> impl IntoResponse {
    let path = request.uri().path();
    ApiError::not_found(format!("there is no {path} here; /openapi.json lists what there is"))
}

async fn no_such_method(request: Request) -> impl IntoResponse {
    let message = format!("{} is not possible on {}", request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

impl Running {
    /// What it is.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its policy.
    pub fn enforcer(&self) -> &Enforcer {
        &self.common.enforcer
    }

    /// No longer ready from now on, and every answer asks its caller to connect anew, so that callers
    /// are elsewhere before it stops.
    pub fn announce_stop(&self) {
        self.common.ready.store(false, Ordering::Relaxed);
        self.ending.leaving.store(true, Ordering::Relaxed);
    }

    /// Until nobody is connected.
    pub async fn unused(&self) {
        while self.common.connections.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Stops: no longer ready, and accepts no more; requests under way are finished within `grace`.
    /// True if all were.
    pub async fn stop(self, grace: Duration) -> bool {
        self.announce_stop();
        self.ending.stop.cancel();
        self.stop.cancel();
        self.tasks.close();
        let drained = within(grace, self.tasks.wait()).await;
        self.ending.cut.cancel();
        within(Duration::from_secs(1), self.cache.close()).await;
        if let Some(spans) = &self.spans {
            within(Duration::from_secs(2), spans.close()).await;
        }
        if let Some(store) = &self.store {
            within(Duration::from_secs(2), store.close()).await;
        }
        drained
    }
}

async fn within(limit: Duration, work: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(limit, work).await.is_ok()
}
