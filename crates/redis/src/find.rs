//! Which server has our keys: the only one, the master that sentinels know, or the node of a cluster.
//!
//! All keys of a client lie in one slot of a cluster, so that in each kind it is one server, and one
//! ordinary connection does. Who knows may be late: all are asked at once, and what most of them say counts.

use std::{collections::HashMap, future::Future, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, RedisResult,
    ServerErrorKind, aio::MultiplexedConnection,
};
use tokio::task::JoinSet;

use crate::{RedisUrl, url::Kind};

/// From node to node of a cluster at most.
const MOST_HOPS: usize = 4;

/// The address of the server that has `key`, if anybody says within `limit`.
pub(crate) async fn server_of(url: &RedisUrl, key: &str, limit: Duration) -> Option<ConnectionAddr> {
    let mut asking = JoinSet::new();
    for address in &url.addresses {
        let (url, address, key) = (url.clone(), address.clone(), key.to_owned());
        asking.spawn(within(limit, async move {
            match &url.kind {
                Kind::Single => Some(address),
                Kind::Sentinel(master) => ask_sentinel(&url, address, master).await,
                Kind::Cluster => follow(&url, address, &key).await,
            }
        }));
    }
    most(asking.join_all().await.into_iter().flatten())
}

/// What is named most often.
fn most(named: impl Iterator<Item = ConnectionAddr>) -> Option<ConnectionAddr> {
    let mut votes: HashMap<String, (usize, ConnectionAddr)> = HashMap::new();
    for address in named {
        votes.entry(address.to_string()).or_insert((0, address)).0 += 1;
    }
    votes.into_values().max_by_key(|(votes, _)| *votes).map(|(_, address)| address)
}

async fn ask_sentinel(url: &RedisUrl, sentinel: ConnectionAddr, master: &str) -> Option<ConnectionAddr> {
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let asked = query::<Option<(String, u16)>>(url.sentinel(sentinel.clone()), &ask).await;
    let answer = match asked {
        Err(error) if error.code() == Some("NOAUTH") => query(url.known_to_sentinel(sentinel), &ask).await,
        other => other,
    };
    let (host, port) = answer.ok().flatten()?;
    Some(url.elsewhere(&host, port))
}

/// Asks a node of a cluster for the key, and goes where it sends us, until one has it.
async fn follow(url: &RedisUrl, node: ConnectionAddr, key: &str) -> Option<ConnectionAddr> {
    let mut node = node;
    for _ in 0..MOST_HOPS {
        let mut ask = redis::cmd("GET");
        ask.arg(key);
        match query::<redis::Value>(url.server(node.clone()), &ask).await {
            Ok(_) => return Some(node),
            Err(error) => {
                let moved = error.kind() == ErrorKind::Server(ServerErrorKind::Moved);
                let (to, _) = error.redirect_node().filter(|_| moved)?;
                let (host, port) = to.rsplit_once(':')?;
                // No host: where the node itself is.
                let host = if host.is_empty() { host_of(&node)? } else { host };
                node = url.elsewhere(host.trim_matches(['[', ']']), port.parse().ok()?);
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

/// One question over a connection of its own.
async fn query<T: FromRedisValue>(to: ConnectionInfo, command: &redis::Cmd) -> RedisResult<T> {
    // The caller has the limit.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = Client::open(to)?;
    let mut connection: MultiplexedConnection =
        client.get_multiplexed_async_connection_with_config(&config).await?;
    command.query_async(&mut connection).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_late_is_outvoted() {
        let at = |port| ConnectionAddr::Tcp("10.0.0.1".into(), port);
        let told = most([at(1), at(2), at(2)].into_iter()).map(|address| address.to_string());
        assert_eq!(told.as_deref(), Some("10.0.0.1:2"));
        assert!(most(std::iter::empty()).is_none());
    }
}
