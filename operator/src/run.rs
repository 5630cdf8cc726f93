//! The operator's process: start-up, controllers, and graceful shutdown.

use std::{convert::Infallible, error::Error, pin::pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use kube::{Client, Config, discovery::Discovery};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    context::Context,
    controller,
    election::{Leadership, elect},
    error::RunError,
    http,
    probe::PolicyProbe,
    settings::Settings,
};

/// Longest wait for a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for data on a connection to the API server. Watches end themselves earlier.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for reconciles in progress, and then for the release of the Lease, at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the operator until `shutdown` completes.
///
/// # Errors
///
/// Returns the error that kept the operator from starting or ended it. A restart is the remedy.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let config = infer_config().await?;
    let client = Client::try_from(config.clone()).map_err(api_server)?;
    let kinds = discover(&client).await?;
    let listener = TcpListener::bind(settings.bind).await;
    let listener = listener.map_err(|source| RunError::Listen { address: settings.bind, source })?;
    let (leadership, election) = if settings.no_election {
        (Leadership::always(), None)
    } else {
        let (leadership, task) = elect(config, &settings)?;
        (leadership, Some(task))
    };
    let mut context = Context::new(
        client,
        settings.build_options(kinds.service_monitor),
        leadership,
        PolicyProbe::new().map_err(RunError::ProbeClient)?,
        settings.pod_name.clone(),
    );
    context.resync = settings.resync();
    let context = Arc::new(context);
    let server = tokio::spawn(axum::serve(listener, http::router(Arc::clone(&context))).into_future());

    let (shutdown_sender, shutdown_receiver) = watch::channel(false);
    let scopes = settings.scopes();
    tracing::info!(
        ?scopes,
        service_monitors = kinds.service_monitor,
        image = context.build_options.image,
        "operator started"
    );
    let is_elected = election.is_some();
    let mut election = pin!(async {
        match election {
            Some(task) => task.await,
            None => std::future::pending().await,
        }
    });
    let result = {
        let controllers = scopes
            .iter()
            .map(|scope| controller::run(Arc::clone(&context), scope, shutdown_receiver.clone()));
        let mut controllers = pin!(join_all(controllers.collect::<Vec<_>>()));
        let result = tokio::select! {
            () = shutdown => Ok(()),
            _ = &mut controllers => Err(RunError::ControllersEnded),
            never = publish_leadership(&context) => match never {},
            ended = &mut election => Err(RunError::ElectionEnded(ended.err())),
        };
        tracing::info!("shutting down");
        let _ = shutdown_sender.send(true);
        if result.is_ok() && tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut controllers).await.is_err() {
            tracing::warn!("reconciles were still in progress at the end of the shutdown timeout");
        }
        result
    };
    server.abort();
    let _ = server.await;
    // With the last clone of the leadership dropped, the election task releases the Lease for the next
    // leader.
    drop(context);
    if result.is_ok() && is_elected && tokio::time::timeout(SHUTDOWN_TIMEOUT, election).await.is_err() {
        tracing::warn!("failed to release the Lease in time; it will expire");
    }
    result
}

async fn infer_config() -> Result<Config, RunError> {
    let mut config = Config::infer().await.map_err(api_server)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(REQUEST_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    Ok(config)
}

/// Kinds that a cluster may or may not have.
struct OptionalKinds {
    service_monitor: bool,
}

/// Discovers the kinds that the API server has.
async fn discover(client: &Client) -> Result<OptionalKinds, RunError> {
    let groups = Discovery::new(client.clone()).filter(&["phase6.dev", "monitoring.coreos.com"]);
    let groups = groups.run().await.map_err(api_server)?;
    let has_kind = |group: &str, kind: &str| {
        groups.get(group).is_some_and(|group| group.recommended_kind(kind).is_some())
    };
    if !has_kind("phase6.dev", "Phase6Service") {
        return Err(RunError::DefinitionMissing);
    }
    Ok(OptionalKinds { service_monitor: has_kind("monitoring.coreos.com", "ServiceMonitor") })
}

fn api_server(error: impl Error + Send + Sync + 'static) -> RunError {
    RunError::ApiServer(error.into())
}

/// Publishes each change of leadership in a metric and in the log.
async fn publish_leadership(context: &Context) -> Infallible {
    let Some(mut held) = context.leadership.watch() else {
        context.metrics.leader.set(1);
        return std::future::pending().await;
    };
    loop {
        let is_leader = *held.borrow_and_update();
        context.metrics.leader.set(is_leader.into());
        tracing::info!(is_leader, "leadership changed");
        if held.changed().await.is_err() {
            // The election task ended, which `run` reports.
            return std::future::pending().await;
        }
    }
}
