//! Connections to one server.

use std::time::Duration;

use redis::{
    Client, ConnectionAddr,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::{
    RedisError, RedisUrl,
    client::{CONNECT_LIMIT, HELD},
};

/// Commands on a connection at once; more wait for a place, within their limit.
const MOST_AT_ONCE: usize = 4_096;

/// Connections to the server at an address; made when they are needed, and again when they broke.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) address: String,
    pub(crate) connection: ConnectionManager,
    /// For commands that the server answers when something happens: they hold up what comes after them.
    pub(crate) held: ConnectionManager,
}

impl Link {
    pub(crate) fn new(url: &RedisUrl, address: ConnectionAddr) -> Result<Self, RedisError> {
        let named = address.to_string();
        let client =
            Client::open(url.server(address)).map_err(|error| RedisError::Broken(error.to_string()))?;
        let connect = |answered_in: Duration| {
            let config = ConnectionManagerConfig::new()
                // The library's own retries wait for seconds, holding every caller.
                .set_number_of_retries(0)
                .set_connection_timeout(Some(CONNECT_LIMIT))
                .set_response_timeout(Some(answered_in))
                .set_concurrency_limit(MOST_AT_ONCE);
            ConnectionManager::new_lazy_with_config(client.clone(), config)
                .map_err(|error| RedisError::Broken(error.to_string()))
        };
        Ok(Self { address: named, connection: connect(CONNECT_LIMIT)?, held: connect(HELD + CONNECT_LIMIT)? })
    }
}
