//! `phase6 serve`: one service, as a pod runs it.

#![allow(clippy::doc_markdown, reason = "doc comments of options are help texts for a terminal")]

#[cfg(feature = "cluster")]
mod cluster;
#[cfg(not(feature = "cluster"))]
#[path = "serve/without_cluster.rs"]
mod cluster;
mod peers;
mod source;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use phase6_catalog::ServiceName;
use phase6_chassis::{Running, start};

use self::{
    cluster::Cluster,
    source::{PolicySource, enforce},
};
use crate::{
    HostOptions, RunError, error_chain,
    host::{host, listen},
    log,
    output::print,
    services::definition,
    settings::help_table,
    signals::StopSignals,
    watch::FileWatch,
};

/// Shortest notice before a stop, even if nobody is connected: callers that have not yet seen that the
/// service is leaving still connect.
const MIN_NOTICE: Duration = Duration::from_secs(3);
/// Longest time for requests in flight; shorter than the usual grace period of a pod, 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// Command-line options of `phase6 serve`.
#[derive(Debug, Args)]
pub struct ServeOptions {
    /// Name of the service
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Compiled policy document, as the operator mounts it; applied again when it changes
    #[arg(long, value_name = "FILE", env = "PHASE6_POLICY_FILE", conflicts_with = "files")]
    pub policy: Option<PathBuf>,

    /// ConfigMap with the same document, in the namespace of this pod; watched, because a mounted file is
    /// updated up to a minute later
    #[arg(long, value_name = "NAME", env = "PHASE6_POLICY_OBJECT", requires = "policy")]
    pub policy_object: Option<String>,

    /// File or folder with Phase6Service documents; applied again when they change
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,

    /// Port [default: the service's own]
    #[arg(long, value_name = "N", env = "PHASE6_PORT")]
    pub port: Option<u16>,

    /// Address of a peer: NAME=HOST:PORT, with several endpoints separated by `+`
    #[arg(long, value_name = "PEER", value_delimiter = ',', env = "PHASE6_PEERS")]
    pub peer: Vec<String>,

    /// Balance requests over the pods of a peer whose address is the name of a Service in the namespace of
    /// this pod, found by watching its EndpointSlices
    #[arg(long, env = "PHASE6_FOLLOW_PEERS")]
    pub follow_peers: bool,

    /// Name under which replicas share limits and cached responses [default: the service's]
    #[arg(long, value_name = "NAME", env = "PHASE6_SHARED_AS")]
    pub shared_as: Option<String>,

    /// Longest time after SIGTERM during which the service still accepts connections, in seconds from 0 to
    /// 300. It is not ready then, and asks clients to reconnect. A second signal ends this time
    #[arg(
        long, value_name = "SECONDS", env = "PHASE6_NOTICE_SECONDS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(..=300)
    )]
    pub notice: u64,

    /// Longest wait at the start for a database that is not reachable yet, in seconds from 0 to 300
    #[arg(
        long, value_name = "SECONDS", env = "PHASE6_WAIT_SECONDS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(..=300)
    )]
    pub wait: u64,

    /// Print the settings that the service reads from the environment, and exit
    #[arg(long)]
    pub help_settings: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub host: HostOptions,
}

impl ServeOptions {
    /// True if an operator has set the options and variables. It may be newer than this program.
    pub const fn is_run_by_operator(&self) -> bool {
        self.policy_object.is_some()
    }
}

/// Prints the settings of the service.
///
/// # Errors
///
/// The service does not exist, or standard output cannot be written.
pub fn print_settings(options: &ServeOptions) -> Result<(), RunError> {
    print(help_table(service(options)?))
}

fn service(options: &ServeOptions) -> Result<ServiceName, RunError> {
    options.name.parse().map_err(|error| RunError::Usage(format!("NAME: {error}")))
}

/// Runs the service until it is asked to stop.
///
/// # Errors
///
/// The command line or the policy is invalid, or the service cannot start.
pub async fn run(options: ServeOptions) -> Result<(), RunError> {
    log::start(options.host.log);
    let name = service(&options)?;
    let definition = definition(name);
    let mut signals = StopSignals::install()?;
    let peers = peers::parse(&options.peer, options.is_run_by_operator())?;
    let wait = Duration::from_secs(options.wait);
    let host = host(&options.host, peers.clone(), wait, options.is_run_by_operator());
    let mut host = tokio::select! {
        host = host => host?,
        () = signals.stop() => return Ok(()),
    };
    host.shared_as.clone_from(&options.shared_as);
    let port = options.port.unwrap_or(name.service().port);
    let listener = listen(options.host.bind, port, name.as_str(), "choose another one with --port N")?;
    let enforcer = host.enforcer();
    let mut source = PolicySource::new(&options, name);
    // Created before the policy is read: a change in between must not be missed.
    let mut watch = FileWatch::new(&source.paths());
    source.read(&enforcer).map_err(RunError::Failed)?;
    let mut cluster = Cluster::connect(&options, name.service(), &peers).await?;
    // The mounted file may be a minute old. From its first request on the service enforces the published
    // policy, unless the API server is unreachable.
    tokio::select! {
        document = cluster.current_policy() => {
            if let Some(document) = document
                && let Err(error) = enforce(&document, cluster.policy_name(), &enforcer)
            {
                tracing::error!(error, "published policy rejected; starting with the mounted one");
            }
        }
        () = signals.stop() => return Ok(()),
    }
    let running = tokio::select! {
        started = start(definition, listener, &host, enforcer.clone()) => {
            started.map_err(|error| RunError::Failed(error_chain(&error)))?
        }
        () = signals.stop() => return Ok(()),
    };
    tracing::info!(
        service = name.as_str(),
        address = %running.address(),
        revision = enforcer.state().revision,
        "serving"
    );
    loop {
        let before = enforcer.state();
        let result = tokio::select! {
            () = watch.changed() => source.read(&enforcer),
            document = cluster.changed_policy() => enforce(&document, cluster.policy_name(), &enforcer),
            () = signals.stop() => break,
        };
        match result {
            Ok(()) => {
                let now = enforcer.state();
                if (now.revision, &now.uid, &now.error) != (before.revision, &before.uid, &before.error) {
                    tracing::info!(revision = now.revision, hash = now.hash, "policy active");
                }
            }
            Err(error) => tracing::error!(error, "policy rejected; the last valid policy stays active"),
        }
    }
    stop(running, Duration::from_secs(options.notice), &mut signals).await;
    Ok(())
}

/// Announces the stop, gives callers time to leave, and finishes the requests in flight.
async fn stop(running: Running, notice: Duration, signals: &mut StopSignals) {
    tracing::info!(notice_seconds = notice.as_secs(), "stopping");
    running.drain();
    let everybody_left = async {
        tokio::time::sleep(notice.min(MIN_NOTICE)).await;
        running.wait_until_unused().await;
    };
    tokio::select! {
        () = tokio::time::sleep(notice) => {}
        () = everybody_left => {}
        () = signals.stop() => tracing::info!("second signal received: shutting down without waiting for clients to leave"),
    }
    tokio::select! {
        is_complete = running.shutdown(GRACE) => tracing::info!(drained = is_complete, "stopped"),
        () = signals.abort() => tracing::info!("stopped at once"),
    }
}
