//! First step of a start: the connections of a service to its database, to Redis, to its peers and to the
//! collector of spans.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use phase6_cache::{Cache, Disk, Level, Remote};
use phase6_events::Hub;
use phase6_identity::Principal;
use phase6_jobs::{Job, Jobs};
use phase6_live::Live;
use phase6_otlp::Exporter;
use phase6_redis::{Redis, RedisUrl};
use phase6_store::{Migration, PoolLimits, Store, StoreError};
use phase6_telemetry::{Sampler, SpanSink, Telemetry};
use serde_json::json;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{Definition, Host, StartError};
use crate::{ComponentKind, Components, Enforcer, Upstream, request::delete_expired};

/// Prefix of the keys of shared responses. The number is the version of the stored format.
const CACHE_KEYS: &str = "phase6:2:cache";
/// Prefix of the keys of shared limits. The number is the version of the stored format.
const LIMIT_KEYS: &str = "phase6:2:limit";
/// Largest size of a cache on disk, in bytes.
const MAX_DISK_CACHE_BYTES: u64 = 256 * 1024 * 1024;
/// Time between two deletions of expired idempotency keys.
const CLEAN_UP_PERIOD: Duration = Duration::from_mins(5);
/// Pause between attempts to open a database that is unavailable.
const STORE_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The connections of a service, and the tasks that maintain them.
pub(super) struct Connections {
    pub(super) store: Option<Store>,
    pub(super) cache: Cache,
    /// Redis for shared limits.
    pub(super) limits: Option<Redis>,
    pub(super) peers: HashMap<&'static str, Upstream>,
    pub(super) exporter: Option<Arc<Exporter>>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) components: Components,
    pub(super) jobs: Jobs,
    pub(super) events: Hub,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Ends the tasks of a service whose start fails.
    pub(super) stop_on_drop: DropGuard,
}

impl Connections {
    /// Opens all connections that the service needs.
    pub(super) async fn open(
        definition: &Definition,
        host: &Host,
        enforcer: &Enforcer,
    ) -> Result<Self, StartError> {
        let name = definition.service.name;
        let components = Components::default();
        let store = match definition.needs.store {
            Some(migrations) => Some(open_store(name, migrations, host, &components).await?),
            None => None,
        };
        let shared_as = host.shared_as.as_deref().unwrap_or(name);
        let (level, limits) =
            tokio::try_join!(second_cache_level(name, shared_as, host), shared_limits(shared_as, host))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let exporter =
            host.collector.as_ref().map(|collector| Arc::new(collector.start_exporter(name, host.version)));
        let sink = exporter.clone().map(|exporter| exporter as Arc<dyn SpanSink>);
        let jobs = Jobs::new(name, store.clone(), tasks.clone(), stop.clone());
        if let Some(store) = &store {
            start_clean_up(&jobs, store);
        }
        Ok(Self {
            store,
            cache: Cache::new(level),
            limits,
            peers: connect_peers(definition, host, enforcer, &components, &stop, &tasks),
            exporter,
            telemetry: Telemetry::new(name, Sampler::new(host.access.internal.derive("sampling")), sink),
            components,
            jobs,
            events: Hub::start(&tasks, stop.clone()),
            stop_on_drop: stop.clone().drop_guard(),
            stop,
            tasks,
        })
    }
}

/// Opens and migrates the database. Waits for one that is unavailable, as long as the host says.
async fn open_store(
    service: &'static str,
    migrations: &'static [Migration],
    host: &Host,
    components: &Components,
) -> Result<Store, StartError> {
    let due = Instant::now() + host.store_wait;
    let open = async || {
        let store = Store::connect(&host.database, PoolLimits::default()).await?;
        store.migrate(service, migrations).await?;
        store.migrate(&format!("{service}_jobs"), &phase6_jobs::MIGRATIONS).await?;
        store.migrate(&format!("{service}_idempotency"), &phase6_idempotency::MIGRATIONS).await?;
        Ok(store)
    };
    let store = loop {
        match open().await {
            Ok(store) => break store,
            Err(error) if StoreError::is_unavailable(&error) && Instant::now() < due => {
                tracing::warn!(service, %error, "waiting for the database");
                tokio::time::sleep(STORE_RETRY_PAUSE).await;
            }
            Err(source) => {
                let database = host.database.to_string();
                return Err(StartError::Store { service, database, source });
            }
        }
    };
    let shown = store.clone();
    components.register(ComponentKind::Database, "records", move || json!(shown.snapshot()));
    Ok(store)
}

/// Starts the job that deletes expired idempotency keys.
fn start_clean_up(jobs: &Jobs, store: &Store) {
    let store = store.clone();
    jobs.singleton(Job::new("idempotency-keys", CLEAN_UP_PERIOD, move |_| {
        let deleting = delete_expired(store.clone());
        async move { deleting.await.map_err(Into::into) }
    }));
}

/// Returns the second level of the response cache: Redis if replicas share it, else a file.
async fn second_cache_level(
    name: &'static str,
    shared_as: &str,
    host: &Host,
) -> Result<Option<Arc<dyn Level>>, StartError> {
    if let Some(url) = &host.redis {
        let redis = connect_redis(url, CACHE_KEYS, shared_as).await?;
        return Ok(Some(Arc::new(Remote::new(redis))));
    }
    Ok(host.cache_folder.as_ref().map(|folder| {
        let file = folder.join(format!("{name}.db"));
        Arc::new(Disk::new(file, MAX_DISK_CACHE_BYTES)) as Arc<dyn Level>
    }))
}

async fn shared_limits(shared_as: &str, host: &Host) -> Result<Option<Redis>, StartError> {
    match &host.redis {
        Some(url) => connect_redis(url, LIMIT_KEYS, shared_as).await.map(Some),
        None => Ok(None),
    }
}

/// Creates a Redis client with separate connections: a large cached response must not delay a limit.
async fn connect_redis(url: &RedisUrl, keys: &str, shared_as: &str) -> Result<Redis, StartError> {
    let redis = Redis::new(url, &format!("{keys}:{shared_as}")).map_err(StartError::Redis)?;
    redis.warm_up().await;
    Ok(redis)
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
        let own = Principal::service(definition.service.name);
        let upstream = Upstream::new(name, &addresses.get(), &enforcer.breaker(), token, own);
        components.register_peer(&upstream);
        tasks.spawn(upstream.clone().maintain(addresses, stop.clone()));
        peers.insert(name, upstream);
    }
    peers
}
