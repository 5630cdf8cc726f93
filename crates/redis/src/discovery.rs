//! Finds the server that owns the client's keys: the only server, the current master of a Sentinel
//! deployment, or a cluster node.
//!
//! All keys of a client are in one cluster slot, so one server and one ordinary connection are enough for
//! every topology. A sentinel or node can have outdated information; all of them are queried at once and the
//! most frequent reply wins.

use std::{collections::HashMap, future::Future, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, RedisResult,
    ServerErrorKind, aio::MultiplexedConnection,
};
use tokio::task::JoinSet;

use crate::{RedisUrl, url::Topology};

/// Nodes of a cluster that one lookup visits at most.
const MAX_HOPS: usize = 4;

/// Returns the address of the server that owns `key`, or `None` if no lookup succeeds within `limit`.
pub(crate) async fn locate_server(url: &RedisUrl, key: &str, limit: Duration) -> Option<ConnectionAddr> {
    let mut lookups = JoinSet::new();
    for address in &url.addresses {
        let (url, address, key) = (url.clone(), address.clone(), key.to_owned());
        lookups.spawn(with_limit(limit, async move {
            match &url.topology {
                Topology::Single => Some(address),
                Topology::Sentinel { master } => query_sentinel(&url, address, master).await,
                Topology::Cluster => follow_redirects(&url, address, &key).await,
            }
        }));
    }
    most_frequent(lookups.join_all().await.into_iter().flatten())
}

fn most_frequent(addresses: impl Iterator<Item = ConnectionAddr>) -> Option<ConnectionAddr> {
    let mut votes: HashMap<String, (usize, ConnectionAddr)> = HashMap::new();
    for address in addresses {
        votes.entry(address.to_string()).or_insert((0, address)).0 += 1;
    }
    votes.into_values().max_by_key(|(votes, _)| *votes).map(|(_, address)| address)
}

/// Asks a sentinel for the master's address; sends the credentials only if the sentinel requires them.
async fn query_sentinel(url: &RedisUrl, sentinel: ConnectionAddr, master: &str) -> Option<ConnectionAddr> {
    let mut lookup = redis::cmd("SENTINEL");
    lookup.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let reply = match query::<Option<(String, u16)>>(url.sentinel(sentinel.clone()), &lookup).await {
        Err(error) if error.code() == Some("NOAUTH") => {
            query(url.authenticated_sentinel(sentinel), &lookup).await
        }
        other => other,
    };
    let (host, port) = reply.ok().flatten()?;
    Some(url.address_at(&host, port))
}

/// Reads `key` from a cluster node and follows `MOVED` redirects to the node that owns it.
async fn follow_redirects(url: &RedisUrl, first: ConnectionAddr, key: &str) -> Option<ConnectionAddr> {
    let mut node = first;
    for _ in 0..MAX_HOPS {
        let mut get = redis::cmd("GET");
        get.arg(key);
        match query::<redis::Value>(url.server(node.clone()), &get).await {
            Ok(_) => return Some(node),
            Err(error) => {
                let moved = error.kind() == ErrorKind::Server(ServerErrorKind::Moved);
                let (target, _) = error.redirect_node().filter(|_| moved)?;
                let (host, port) = target.rsplit_once(':')?;
                // An empty host in a redirect means the host of the node that sent it.
                let host = if host.is_empty() { host_of(&node)? } else { host };
                node = url.address_at(host.trim_matches(['[', ']']), port.parse().ok()?);
            }
        }
    }
    None
}

fn host_of(address: &ConnectionAddr) -> Option<&str> {
    match address {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
        _ => None,
    }
}

/// Runs one command over a new connection.
async fn query<T: FromRedisValue>(server: ConnectionInfo, command: &redis::Cmd) -> RedisResult<T> {
    // The caller applies the time limit.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = Client::open(server)?;
    let mut connection: MultiplexedConnection =
        client.get_multiplexed_async_connection_with_config(&config).await?;
    command.query_async(&mut connection).await
}

async fn with_limit<T>(limit: Duration, lookup: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(limit, lookup).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_reply_wins_over_an_outdated_one() {
        let at = |port| ConnectionAddr::Tcp("10.0.0.1".into(), port);
        let winner = most_frequent([at(1), at(2), at(2)].into_iter()).map(|address| address.to_string());
        assert_eq!(winner.as_deref(), Some("10.0.0.1:2"));
        assert!(most_frequent(std::iter::empty()).is_none());
    }
}
