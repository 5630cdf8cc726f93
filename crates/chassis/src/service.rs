//! How a service starts: everything that is put around what it declares.

mod definition;
mod running;
mod shared;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use axum::{Router, extract::Request, response::IntoResponse};
use http::StatusCode;
use phase6_cache::Cache;
use phase6_live::Live;
use phase6_store::{PoolLimits, Store, StoreError};
use phase6_telemetry::{SpanSink, Telemetry};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa_axum::router::OpenApiRouter;

use self::definition::Observe;
pub use self::{
    definition::{Definition, Host, Kit, Needs, StartError},
    running::Running,
};
use crate::{
    ApiError, Components, Enforcer, Kind, Upstream,
    common::{self, Common},
    describe, series,
    server::{self, Ending},
    stack::{Load, Parts, limiter, stack},
};

/// Rate-limit keys that a service remembers.
const BUCKETS: usize = 1 << 16;
/// Requests that a service answers at a time.
const MOST_IN_FLIGHT: usize = 2048;
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
    let name = definition.service.name;
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
    let spans = host.spans.as_ref().map(|spans| Arc::new(spans.start_exporter(name, host.version)));
    let export = spans.clone().map(|exporter| exporter as Arc<dyn SpanSink>);
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
    let labels = definition.needs.fallback_labels.map(|labels| labels()).unwrap_or_default();
    telemetry.metrics().declare_routes(openapi.paths.paths.keys().cloned().chain(labels));

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
    if definition.needs.fallback_labels.is_none() {
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
    let failed = |source| StartError::Store {
        service: definition.service.name,
        database: host.database.to_string(),
        source,
    };
    let due = Instant::now() + host.patience;
    let open = async || {
        let store = Store::connect(&host.database, PoolLimits::default()).await?;
        store.migrate(definition.service.name, migrations).await?;
        Ok(store)
    };
    let store = loop {
        match open().await {
            Ok(store) => break store,
            Err(error) if StoreError::is_unavailable(&error) && Instant::now() < due => {
                tracing::warn!(service = definition.service.name, %error, "waiting for the database");
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
    for name in definition.service.peers().map(|peer| peer.name) {
        let addresses = host.peers.get(name).cloned().unwrap_or_else(|| Live::new(vec![]));
        let token = host.access.internal.clone();
        let upstream = Upstream::new(name, &addresses.get(), &enforcer.breaker(), token);
        components.register_peer(&upstream);
        tasks.spawn(upstream.clone().tend(addresses, stop.clone()));
        peers.insert(name, upstream);
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
