//! The program: election, controllers, pages, and an orderly end.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use kube::{
    Client, Config,
    api::DynamicObject,
    runtime::{
        controller::{self, Controller},
        reflector::ObjectRef,
    },
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    apply::Leadership,
    build::{Context, RESOURCE_LABEL},
    election::elect,
    events::Events,
    metrics::{Metrics, pages},
    reconcile::Reconciler,
    replicas::Asker,
    settings::Settings,
    world::{Changes, Scope, World, resource_api},
};

/// So many resources are reconciled at a time.
const AT_A_TIME: u16 = 16;
/// Longest wait for one answer of the API server; watches say themselves how long they last.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for reconciles under way when the program ends.
const END: Duration = Duration::from_secs(10);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// There is no cluster to talk to.
    #[error("cannot reach a cluster: {0}")]
    NoCluster(String),
    /// Its pages cannot be served.
    #[error("cannot listen on {address}: {source}")]
    NoListener {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The definition of the resource is missing.
    #[error("the cluster does not know Phase6Service; install its definition: kubectl apply -f crds/")]
    NoDefinition,
    /// The election's own task ended: nobody renews the Lease any more.
    #[error("the election ended: {0}")]
    ElectionEnded(String),
    /// All controllers ended.
    #[error("the controllers ended")]
    ControllersEnded,
}

/// What all parts of the program use.
pub struct Shared {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) leadership: Leadership,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
    pub(crate) asker: Asker,
    warm: AtomicBool,
}

impl Shared {
    /// The watches have shown all there is.
    pub(crate) fn warm(&self) {
        self.warm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Relaxed)
    }
}

/// Runs until `stop` comes true.
///
/// # Errors
///
/// What kept it from starting or made it end; a restart is the right answer to all of it.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> Result<(), Ended> {
    let config = infer().await?;
    let client = connect(config.clone())?;
    let kinds = kube::discovery::Discovery::new(client.clone());
    let kinds = kinds.filter(&["phase6.dev", "monitoring.coreos.com"]).run().await;
    let kinds = kinds.map_err(|error| Ended::NoCluster(error.to_string()))?;
    let knows = |group: &str, kind: &str| {
        kinds.get(group).is_some_and(|group| group.recommended_kind(kind).is_some())
    };
    if !knows("phase6.dev", "Phase6Service") {
        return Err(Ended::NoDefinition);
    }
    let monitors = knows("monitoring.coreos.com", "ServiceMonitor");

    let listener = TcpListener::bind(settings.bind).await;
    let listener = listener.map_err(|source| Ended::NoListener { address: settings.bind, source })?;
    let election = if settings.no_election { None } else { Some(elect(config, &settings)?) };
    let (held, election) = election.unzip();
    let shared = Arc::new(Shared {
        context: settings.context(monitors),
        leadership: held.clone().map_or_else(Leadership::alone, Leadership::elected),
        metrics: Metrics::default(),
        events: Events::new(client.clone(), settings.pod_name.clone()),
        asker: Asker::new().map_err(|error| Ended::NoCluster(error.to_string()))?,
        warm: AtomicBool::new(false),
        client,
    });
    let serving = tokio::spawn(axum::serve(listener, pages(Arc::clone(&shared))).into_future());

    let (ending, ended) = watch::channel(false);
    let scopes = settings.scopes();
    tracing::info!(?scopes, monitors, image = shared.context.image, "operator runs");
    let is_elected = election.is_some();
    let mut election = pin!(async {
        match election {
            Some(task) => task.await.map_or_else(|error| error.to_string(), |()| "it was let go".to_owned()),
            None => std::future::pending().await,
        }
    });
    let result = {
        let controllers =
            scopes.iter().map(|scope| control(Arc::clone(&shared), scope, held.clone(), ended.clone()));
        let mut controllers = pin!(join_all(controllers.collect::<Vec<_>>()));
        let result = tokio::select! {
            () = stop => Ok(()),
            _ = &mut controllers => Err(Ended::ControllersEnded),
            never = show_leadership(&shared, held.clone()) => match never {},
            why = &mut election => Err(Ended::ElectionEnded(why)),
        };
        tracing::info!("stopping");
        let _ = ending.send(true);
        if result.is_ok() && tokio::time::timeout(END, &mut controllers).await.is_err() {
            tracing::warn!("reconciles were still under way");
        }
        result
    };
    serving.abort();
    let _ = serving.await;
    // The last receivers go: the election lets the Lease go, for the next leader.
    drop((held, shared));
    if result.is_ok() && is_elected && tokio::time::timeout(END, election).await.is_err() {
        tracing::warn!("the Lease could not be let go; it ends by itself");
    }
    result
}

async fn infer() -> Result<Config, Ended> {
    let mut config = Config::infer().await.map_err(|error| Ended::NoCluster(error.to_string()))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(PATIENCE);
    config.write_timeout = Some(PATIENCE);
    Ok(config)
}

fn connect(config: Config) -> Result<Client, Ended> {
    Client::try_from(config).map_err(|error| Ended::NoCluster(error.to_string()))
}

/// Shows who leads, in a metric and the log.
async fn show_leadership(shared: &Shared, held: Option<watch::Receiver<bool>>) -> Infallible {
    let Some(mut held) = held else {
        shared.metrics.leader.set(1);
        return std::future::pending().await;
    };
    loop {
        let leads = *held.borrow_and_update();
        shared.metrics.leader.set(leads.into());
        tracing::info!(leads, "election");
        if held.changed().await.is_err() {
            // Its task ended, which is noticed elsewhere.
            return std::future::pending().await;
        }
    }
}

/// Runs one controller.
async fn control(
    shared: Arc<Shared>,
    scope: &Scope,
    held: Option<watch::Receiver<bool>>,
    mut ended: watch::Receiver<bool>,
) {
    let (world, changes) = World::watch(&shared.client, scope, shared.context.monitors);
    let Changes { resources, pods, owned } = changes;
    let mut controller = Controller::for_stream_with(resources, world.resources(), resource_api())
        .watches_stream(pods, |pod| {
            let labels = pod.metadata.labels.unwrap_or_default();
            let namespace = pod.metadata.namespace.unwrap_or_default();
            let name = labels.get(RESOURCE_LABEL).cloned();
            name.map(|name| ObjectRef::<DynamicObject>::new_with(&name, resource_api()).within(&namespace))
        })
        .with_config(controller::Config::default().concurrency(AT_A_TIME))
        .graceful_shutdown_on(async move {
            let _ = ended.wait_for(|ended| *ended).await;
        });
    for (kind, changes) in owned {
        controller = controller.owns_stream_with(changes, kind);
    }
    if let Some(held) = held {
        // Whoever begins to lead looks at everything.
        let begins = stream::unfold(held, |mut held| async move {
            held.changed().await.ok()?;
            let leads = *held.borrow_and_update();
            Some((leads, held))
        });
        controller =
            controller.reconcile_all_on(begins.filter(|leads| std::future::ready(*leads)).map(|_| ()));
    }
    let reconciler = Arc::new(Reconciler::new(shared, world));
    let done = controller.run(
        |object, reconciler: Arc<Reconciler>| reconciler.reconcile(object).boxed(),
        |object, error, reconciler| reconciler.failed(&object, error),
        reconciler,
    );
    // Every result was counted, and every error logged, where it came up.
    done.for_each(|_| std::future::ready(())).await;
}
