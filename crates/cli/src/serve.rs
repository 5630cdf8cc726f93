//! `phase6 serve`: one service, as a pod runs it.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use jiff::Timestamp;
use phase6_chassis::{Definition, Enforcer, FileWatch, start};
use phase6_crds::compile;
use phase6_policy::PolicyDocument;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::Serve,
    ending::{Ending, chain},
    files, log,
    running::{host, listen},
    services::{named, names},
};

/// Longest time for requests under way; below a pod's usual grace of 30 s.
const GRACE: Duration = Duration::from_secs(25);

pub(crate) async fn run(arguments: Serve) -> Result<(), Ending> {
    log::begin(arguments.common.log);
    let Some(definition) = named(&arguments.name) else {
        return Err(Ending::Usage(format!("NAME is {}; accepted: {}", arguments.name, names())));
    };
    let host = host(&arguments.common, peers(&arguments.peer)?)?;
    let port = arguments.port.unwrap_or(definition.port);
    let listener =
        listen(arguments.common.bind, port, definition.name, "choose another one with --port N").await?;
    let enforcer = Enforcer::default();
    let mut source = Source::new(&arguments, definition);
    source.read(&enforcer).map_err(Ending::Findings)?;
    let mut watch = FileWatch::new(&source.paths());
    let running = start(definition, listener, &host, enforcer.clone())
        .await
        .map_err(|error| Ending::Findings(chain(&error)))?;
    tracing::info!(
        service = definition.name,
        address = %running.address(),
        revision = enforcer.state().revision,
        "serving"
    );

    let no_signals = |error| Ending::Findings(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    loop {
        tokio::select! {
            () = watch.changed() => match source.read(&enforcer) {
                Ok(()) => tracing::info!(revision = enforcer.state().revision, "policy read"),
                Err(error) => tracing::error!(error, "policy refused; the last good one stays in force"),
            },
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    tracing::info!(notice_seconds = arguments.notice, "stopping");
    tokio::select! {
        drained = running.stop(Duration::from_secs(arguments.notice), GRACE) => {
            tracing::info!(drained, "stopped");
        }
        _ = interrupt.recv() => tracing::info!("stopped at once"),
    }
    Ok(())
}

/// Where the policy comes from.
enum Source {
    /// A compiled document.
    Compiled(PathBuf),
    /// Documents as people write them.
    Written { paths: Vec<PathBuf>, service: &'static str, run: String, previous: Option<PolicyDocument> },
    /// Nowhere: the defaults.
    Defaults,
}

impl Source {
    fn new(arguments: &Serve, definition: &Definition) -> Self {
        if let Some(file) = &arguments.policy {
            Self::Compiled(file.clone())
        } else if arguments.files.is_empty() {
            Self::Defaults
        } else {
            Self::Written {
                paths: arguments.files.clone(),
                service: definition.name,
                run: format!("serve-{}", Timestamp::now().as_millisecond()),
                previous: None,
            }
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Compiled(file) => vec![file.clone()],
            Self::Written { paths, .. } => paths.clone(),
            Self::Defaults => vec![],
        }
    }

    /// Reads the policy and puts it into force; on a fault the last good one stays and
    /// `/policyz` says so.
    fn read(&mut self, enforcer: &Enforcer) -> Result<(), String> {
        let result = match self {
            Self::Defaults => Ok(()),
            Self::Compiled(file) => match std::fs::read(&*file) {
                Ok(text) => return enforcer.apply_json(&text).map(drop),
                Err(error) => Err(format!("cannot read {}: {error}", file.display())),
            },
            Self::Written { paths, service, run, previous } => match files::load(paths) {
                Err(faults) => Err(files::lines(&faults)),
                Ok(documents) => {
                    let wanted = |document: &phase6_crds::Document| {
                        document.resource.spec.service.as_str() == *service
                    };
                    match documents.into_iter().find(wanted) {
                        None => Err(format!("no document declares the service {service}")),
                        Some(document) => {
                            let mut resource = document.resource;
                            resource.metadata.uid = Some(run.clone());
                            match compile(&resource, previous.as_ref(), Timestamp::now()) {
                                Some(policy) => *previous = Some(policy.clone()),
                                None => {}
                            }
                            if let Some(policy) = previous {
                                enforcer.apply(policy.clone());
                            }
                            Ok(())
                        }
                    }
                }
            },
        };
        if let Err(error) = &result {
            enforcer.refuse(error.clone());
        }
        result
    }
}

/// `NAME=HOST:PORT+HOST:PORT` for each peer.
fn peers(given: &[String]) -> Result<HashMap<String, Vec<String>>, Ending> {
    let mut peers = HashMap::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let parsed =
            text.split_once('=').filter(|(name, _)| named(name).is_some()).map(|(name, endpoints)| {
                let endpoints: Vec<String> = endpoints.split('+').map(str::to_owned).collect();
                (name.to_owned(), endpoints)
            });
        let usable = |endpoint: &String| {
            endpoint
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match parsed {
            Some((name, endpoints)) if endpoints.iter().all(usable) => {
                peers.insert(name, endpoints);
            }
            _ => {
                let accepted = format!("NAME=HOST:PORT with NAME one of {}", names());
                return Err(Ending::Usage(format!("--peer {text} is not usable; accepted: {accepted}")));
            }
        }
    }
    Ok(peers)
}
