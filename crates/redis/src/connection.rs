//! Connections to one server.

use std::time::Duration;

use redis::{
    Client, ConnectionAddr,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::{
    RedisError, RedisUrl,
    client::{BLOCK_LIMIT, CONNECT_LIMIT},
};

/// Commands in flight on one connection; further commands wait for a slot, within their time limit.
const MAX_IN_FLIGHT: usize = 4_096;

/// Connections to the server at one address, opened on first use and reopened after a failure.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) address: String,
    pub(crate) commands: ConnectionManager,
    /// Connection for blocking commands, which delay every command behind them.
    pub(crate) blocking: ConnectionManager,
}

impl Connection {
    pub(crate) fn new(url: &RedisUrl, address: ConnectionAddr) -> Result<Self, RedisError> {
        let name = address.to_string();
        let client = Client::open(url.server(address))
            .map_err(|error| RedisError::ConnectionFailed(error.to_string()))?;
        let connect = |response_timeout: Duration| {
            let config = ConnectionManagerConfig::new()
                // The library's own retries take seconds and delay every caller.
                .set_number_of_retries(0)
                .set_connection_timeout(Some(CONNECT_LIMIT))
                .set_response_timeout(Some(response_timeout))
                .set_concurrency_limit(MAX_IN_FLIGHT);
            ConnectionManager::new_lazy_with_config(client.clone(), config)
                .map_err(|error| RedisError::ConnectionFailed(error.to_string()))
        };
        Ok(Self {
            address: name,
            commands: connect(CONNECT_LIMIT)?,
            blocking: connect(BLOCK_LIMIT + CONNECT_LIMIT)?,
        })
    }
}
