//! Addresses of peers from the command line.

use std::{collections::HashMap, net::Ipv6Addr};

use phase6_catalog::{Service, names};
use phase6_live::Live;

use crate::RunError;

/// Addresses (`host:port`) by the name of the peer; they may change while services run.
pub(super) type Peers = HashMap<String, Live<Vec<String>>>;

/// Parses `NAME=HOST:PORT+HOST:PORT` for each peer. `lenient` skips services that the catalog lacks: an
/// operator may know more services than the image that it runs.
pub(super) fn parse(given: &[String], lenient: bool) -> Result<Peers, RunError> {
    let mut peers = HashMap::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let peer = text
            .split_once('=')
            .map(|(name, endpoints)| (name, endpoints.split('+').map(str::to_owned).collect::<Vec<_>>()));
        match peer.filter(|(_, endpoints)| endpoints.iter().all(|endpoint| is_endpoint(endpoint))) {
            Some((name, endpoints)) if Service::find(name).is_some() => {
                peers.insert(name.to_owned(), Live::new(endpoints));
            }
            Some((name, _)) if lenient => tracing::info!(peer = name, "unknown service skipped"),
            _ => {
                let accepted = format!("NAME=HOST:PORT with NAME one of {}", names());
                return Err(RunError::Usage(format!("--peer {text} is invalid; accepted: {accepted}")));
            }
        }
    }
    Ok(peers)
}

/// True for `HOST:PORT`, with a name, an IPv4 address or an IPv6 address in brackets.
fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_ipv6 = bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    (is_name || is_ipv6) && port.parse::<u16>().is_ok_and(|port| port != 0)
}
