//! `phase6 serve`: one service, as a pod runs it.

mod cluster;
mod object;
mod pods;
mod source;

use std::{collections::HashMap, net::Ipv6Addr, time::Duration};

use phase6_chassis::{FileWatch, start};
use phase6_live::Live;

use crate::{
    args::Serve,
    ending::{Ending, chain},
    log,
    running::{host, listen},
    services::{named, names},
    stopping::Stopping,
};
use object::PolicyObject;
use source::{Source, obey};

/// Even if nobody is connected: those who have not seen yet that the service leaves still come.
const LEAST_NOTICE: Duration = Duration::from_secs(3);
/// Longest time for requests under way; below a pod's usual grace of 30 s.
const GRACE: Duration = Duration::from_secs(25);

pub(crate) async fn run(arguments: Serve) -> Result<(), Ending> {
    log::begin(arguments.common.log);
    let Some(definition) = named(&arguments.name) else {
        return Err(Ending::Usage(format!("NAME is {}; accepted: {}", arguments.name, names())));
    };
    let mut stopping = Stopping::listen()?;
    let peers = peers(&arguments.peer)?;
    let services = if arguments.follow_peers { pods::services(definition, &peers) } else { vec![] };
    let mut host = host(&arguments.common, peers, Duration::from_secs(arguments.wait))?;
    host.shared_as.clone_from(&arguments.shared_as);
    let port = arguments.port.unwrap_or(definition.port);
    let listener = listen(arguments.common.bind, port, definition.name, "choose another one with --port N")?;
    let enforcer = host.enforcer();
    let mut source = Source::new(&arguments, definition);
    // From before the policy is read: a change in between must not be missed.
    let mut watch = FileWatch::new(&source.paths());
    source.read(&enforcer).map_err(Ending::Findings)?;
    let client = match (&arguments.policy_object, services.is_empty()) {
        (Some(name), _) => Some(cluster::client(&format!("--policy-object {name}")).await?),
        (None, false) => Some(cluster::client("--follow-peers").await?),
        (None, true) => None,
    };
    if let Some(client) = &client {
        // To the end, also while requests under way still ask peers.
        tokio::spawn(pods::follow(client.clone(), services));
    }
    // The mounted file may be a minute old. What is obeyed from the first request on is what is
    // published now, unless nobody can be asked.
    let mut object = PolicyObject::follow(arguments.policy_object.as_deref(), client.as_ref());
    tokio::select! {
        text = object.first() => {
            if let Some(text) = text
                && let Err(error) = obey(&text, object.name(), &enforcer)
            {
                tracing::error!(error, "policy refused; beginning with the mounted one");
            }
        }
        () = stopping.asked() => return Ok(()),
    }
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
        let before = enforcer.state();
        let result = tokio::select! {
            () = watch.changed() => source.read(&enforcer),
            text = object.changed() => obey(&text, object.name(), &enforcer),
            () = stopping.asked() => break,
        };
        let now = enforcer.state();
        match result {
            Ok(())
                if (now.revision, &now.uid, &now.error) != (before.revision, &before.uid, &before.error) =>
            {
                tracing::info!(revision = now.revision, hash = now.hash, "policy in force");
            }
            Ok(()) => {}
            Err(error) => tracing::error!(error, "policy refused; the last good one stays in force"),
        }
    }
    tracing::info!(notice_seconds = arguments.notice, "stopping");
    running.announce_stop();
    let notice = Duration::from_secs(arguments.notice);
    let nobody_is_left = async {
        tokio::time::sleep(notice.min(LEAST_NOTICE)).await;
        running.unused().await;
    };
    tokio::select! {
        () = tokio::time::sleep(notice) => {}
        () = nobody_is_left => {}
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

/// `NAME=HOST:PORT+HOST:PORT` for each peer.
fn peers(given: &[String]) -> Result<HashMap<String, Live<Vec<String>>>, Ending> {
    let mut peers = HashMap::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let parsed =
            text.split_once('=').filter(|(name, _)| named(name).is_some()).map(|(name, endpoints)| {
                let endpoints: Vec<String> = endpoints.split('+').map(str::to_owned).collect();
                (name.to_owned(), endpoints)
            });
        match parsed {
            Some((name, endpoints)) if endpoints.iter().all(|endpoint| is_endpoint(endpoint)) => {
                peers.insert(name, Live::new(endpoints));
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
