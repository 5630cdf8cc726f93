//! Addresses of peers from the command line.

use std::{collections::HashMap, net::Ipv6Addr};

use phase6_catalog::{Service, names};
use phase6_live::Live;

use crate::RunError;

/// Addresses (`host:port`) by the name of the peer; they may change while services run.
pub(super) type Peers = HashMap<String, Live<Vec<String>>>;

/// Parses `NAME=HOST:PORT+HOST:PORT` for each peer.
pub(super) fn parse(given: &[String]) -> Result<Peers, RunError> {
    let mut peers = HashMap::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let peer = text.split_once('=').filter(|(name, _)| Service::find(name).is_some());
        let endpoints =
            peer.map(|(_, endpoints)| endpoints.split('+').map(str::to_owned).collect::<Vec<_>>());
        match (peer, endpoints) {
            (Some((name, _)), Some(endpoints)) if endpoints.iter().all(|endpoint| is_endpoint(endpoint)) => {
                peers.insert(name.to_owned(), Live::new(endpoints));
            }
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
