//! `phase6 serve`: one service, as a pod runs it.

use std::{
    collections::HashMap,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use phase6_chassis::{Definition, Enforcer, FileWatch, start};
use phase6_crds::{check_policy, compile};
use phase6_policy::PolicyDocument;
use serde_json::json;

use crate::{
    args::Serve,
    ending::{Ending, chain},
    files, log,
    running::{host, listen},
    services::{named, names},
    stopping::Stopping,
};

/// Longest time for requests under way; below a pod's usual grace of 30 s.
const GRACE: Duration = Duration::from_secs(25);

pub(crate) async fn run(arguments: Serve) -> Result<(), Ending> {
    log::begin(arguments.common.log);
    let Some(definition) = named(&arguments.name) else {
        return Err(Ending::Usage(format!("NAME is {}; accepted: {}", arguments.name, names())));
    };
    let mut stopping = Stopping::listen()?;
    let host = host(&arguments.common, peers(&arguments.peer)?)?;
    let port = arguments.port.unwrap_or(definition.port);
    let listener =
        listen(arguments.common.bind, port, definition.name, "choose another one with --port N").await?;
    let enforcer = Enforcer::default();
    let mut source = Source::new(&arguments, definition);
    // From before the policy is read: a change in between must not be missed.
    let mut watch = FileWatch::new(&source.paths());
    source.read(&enforcer).map_err(Ending::Findings)?;
    let running = tokio::select! {
        started = start(definition, listener, &host, enforcer.clone()) => {
            started.map_err(|error| Ending::Findings(chain(&error)))?
        }
        () = stopping.asked() => return Ok(()),
    };
    tracing::info!(
        service = definition.name,
        address = %running.address(),
        revision = enforcer.state().revision,
        "serving"
    );

    loop {
        tokio::select! {
            () = watch.changed() => {
                let before = enforcer.state();
                match source.read(&enforcer) {
                    Ok(()) => {
                        let now = enforcer.state();
                        if (now.revision, &now.uid, &now.error) != (before.revision, &before.uid, &before.error) {
                            tracing::info!(revision = now.revision, hash = now.hash, "policy in force");
                        }
                    }
                    Err(error) => tracing::error!(error, "policy refused; the last good one stays in force"),
                }
            }
            () = stopping.asked() => break,
        }
    }
    tracing::info!(notice_seconds = arguments.notice, "stopping");
    running.announce_stop();
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(arguments.notice)) => {}
        () = stopping.asked() => tracing::info!("asked again: callers get no more notice"),
    }
    tokio::select! {
        drained = running.stop(GRACE) => {
            tracing::info!(drained, "stopped");
        }
        () = stopping.insisted() => tracing::info!("stopped at once"),
    }
    Ok(())
}

/// Where the policy comes from.
enum Source {
    /// A compiled document.
    Compiled(PathBuf),
    /// Documents as people write them.
    Written(Written),
    /// Nowhere: the defaults.
    Defaults,
}

/// Documents as people write them, of which one service's is obeyed.
struct Written {
    paths: Vec<PathBuf>,
    service: &'static str,
    /// Identity of the policy's owner: this run.
    run: String,
    previous: Option<Box<PolicyDocument>>,
}

impl Source {
    fn new(arguments: &Serve, definition: &Definition) -> Self {
        if let Some(file) = &arguments.policy {
            return Self::Compiled(file.clone());
        }
        if arguments.files.is_empty() {
            return Self::Defaults;
        }
        Self::Written(Written {
            paths: arguments.files.clone(),
            service: definition.name,
            run: format!("serve-{}", Timestamp::now().as_millisecond()),
            previous: None,
        })
    }

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Compiled(file) => vec![file.clone()],
            Self::Written(written) => written.paths.clone(),
            Self::Defaults => vec![],
        }
    }

    /// Reads the policy and puts it into force; on a fault the last good one stays and
    /// `/policyz` says so.
    fn read(&mut self, enforcer: &Enforcer) -> Result<(), String> {
        let policy = match self {
            Self::Defaults => return Ok(()),
            Self::Compiled(file) => compiled(file),
            Self::Written(written) => written.compile(),
        };
        match policy {
            Ok(policy) => {
                enforcer.apply(policy);
                Ok(())
            }
            Err(error) => {
                enforcer.refuse(error.clone());
                Err(error)
            }
        }
    }
}

/// A compiled document, held against the rules that a resource must keep: a document made by hand,
/// or by another version, may never have met them.
fn compiled(file: &Path) -> Result<PolicyDocument, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let document: PolicyDocument =
        serde_json::from_slice(&text).map_err(|error| format!("policy document is not usable: {error}"))?;
    // As it was understood: fields that only a newer version knows are no fault.
    let problems = check_policy(&json!(document.policy));
    if problems.is_empty() {
        return Ok(document);
    }
    let lines: Vec<_> = problems.iter().map(|problem| format!("{}: {problem}", file.display())).collect();
    Err(lines.join("\n"))
}

impl Written {
    /// The policy that the documents ask for now.
    fn compile(&mut self) -> Result<PolicyDocument, String> {
        let documents = files::load(&self.paths).map_err(|faults| files::lines(&faults))?;
        let document = documents
            .into_iter()
            .find(|document| document.resource.spec.service.as_str() == self.service)
            .ok_or_else(|| format!("no document declares the service {}", self.service))?;
        let mut resource = document.resource;
        resource.metadata.uid = Some(self.run.clone());
        let next = compile(&resource, self.previous.as_deref(), Timestamp::now()).map(Box::new);
        self.previous = next.or(self.previous.take());
        Ok(*self.previous.clone().expect("without a previous policy there is always a new one"))
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
        match parsed {
            Some((name, endpoints)) if endpoints.iter().all(|endpoint| is_endpoint(endpoint)) => {
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

/// Whether a text is `HOST:PORT`, with a name, an IPv4 address or an IPv6 address in brackets.
fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let named = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let numbered = bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    (named || numbered) && port.parse::<u16>().is_ok_and(|port| port != 0)
}
