//! The client: one multiplexed connection, a limit on every call, and a probe during outages.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, RedisResult, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use serde::Serialize;

use crate::{RedisUrl, outage::Outage};

/// Longest time that a call takes.
pub const LIMIT: Duration = Duration::from_millis(25);
/// How often a server that is gone is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// How long a connection may take; also the limit of a probe.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Longest time that a server holds the answer of a command which waits for something to happen.
pub const HELD: Duration = Duration::from_millis(300);
/// Commands on the connection at once; more wait for a place, within their limit.
const MOST_AT_ONCE: usize = 4_096;

/// Answers of a server that is there and does not serve.
const NOT_SERVING: [&str; 5] = ["LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN"];

/// A Redis server. Clones are handles to the same connection.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    url: RedisUrl,
    connection: ConnectionManager,
    /// For commands that the server answers when something happens: they hold up what comes after them.
    held: ConnectionManager,
    outage: Mutex<(Outage, Option<Instant>)>,
}

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// The server counts as gone; it was not asked.
    #[error("Redis is gone; it is asked again by a probe")]
    Gone,
    /// It did not answer within [`LIMIT`]. The command may have run.
    #[error("Redis did not answer within {} ms", LIMIT.as_millis())]
    TooSlow,
    /// The connection could not be made or broke. The command may have run.
    #[error("connection to Redis failed: {0}")]
    Broken(String),
    /// It was answered with an error, or with a value of another type than asked for.
    #[error("Redis refused the command: {0}")]
    Refused(String),
}

/// What is known of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Its address, without its password.
    pub address: String,
    /// Whether it counts as gone.
    pub gone: bool,
    /// For how long, in milliseconds.
    pub gone_for_ms: Option<u64>,
}

impl Redis {
    /// The server at `url`. Does not connect yet: a service starts without its Redis too. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// When the client library cannot use the address.
    pub fn new(url: &RedisUrl) -> Result<Self, RedisError> {
        let connect = |answered_in| {
            let config = ConnectionManagerConfig::new()
                // The library's own retries wait for seconds, holding every caller.
                .set_number_of_retries(0)
                .set_connection_timeout(Some(CONNECT_LIMIT))
                .set_response_timeout(Some(answered_in))
                .set_concurrency_limit(MOST_AT_ONCE);
            Client::open(url.info())
                .and_then(|client| ConnectionManager::new_lazy_with_config(client, config))
                .map_err(|error| RedisError::Broken(error.to_string()))
        };
        let (connection, held) = (connect(CONNECT_LIMIT)?, connect(HELD + CONNECT_LIMIT)?);
        let url = url.clone();
        Ok(Self { inner: Arc::new(Inner { url, connection, held, outage: Mutex::default() }) })
    }

    /// The same server, over connections of its own and with its own judgement on whether it is gone.
    ///
    /// # Errors
    ///
    /// As [`Redis::new`].
    pub fn apart(&self) -> Result<Self, RedisError> {
        Self::new(&self.inner.url)
    }

    /// Runs a command that the server answers when something happens, within [`HELD`] or somewhat more. On
    /// a connection of its own, for one caller at a time; it neither minds nor begins an outage.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn wait<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.inner.held.clone();
        let call = command.query_async(&mut connection);
        match tokio::time::timeout(HELD + 2 * CONNECT_LIMIT, call).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(RedisError::TooSlow),
        }
    }

    /// Connects now, so that the first calls need not wait for it. A server that is not there in time is
    /// connected to later.
    pub async fn warm_up(&self) {
        self.inner.pings(CONNECT_LIMIT).await;
    }

    /// Runs a command.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.inner.connection.clone();
        self.within_limit(command.query_async(&mut connection)).await
    }

    /// Runs a script, which the server may have to be sent first.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let mut connection = self.inner.connection.clone();
        self.within_limit(script.invoke_async(&mut connection)).await
    }

    /// What is known of the server.
    pub fn state(&self) -> State {
        let (outage, since) = *self.inner.outage.lock();
        State {
            address: self.inner.url.to_string(),
            gone: outage.is_gone(),
            gone_for_ms: since.map(|since| since.elapsed().as_millis() as u64),
        }
    }

    async fn within_limit<T>(&self, call: impl Future<Output = RedisResult<T>>) -> Result<T, RedisError> {
        if self.inner.outage.lock().0.is_gone() {
            return Err(RedisError::Gone);
        }
        let result = match tokio::time::timeout(LIMIT, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(RedisError::from(error)),
            Err(_) => Err(RedisError::TooSlow),
        };
        let answered = matches!(result, Ok(_) | Err(RedisError::Refused(_)));
        if self.inner.call_ended(answered) {
            tokio::spawn(probe(Arc::downgrade(&self.inner)));
        }
        result
    }
}

impl Inner {
    fn call_ended(&self, answered: bool) -> bool {
        let mut held = self.outage.lock();
        let gone = held.0.call_ended(answered);
        if gone {
            held.1 = Some(Instant::now());
            tracing::warn!(redis = %self.url, "redis is gone");
        }
        gone
    }

    async fn pings(&self, limit: Duration) -> bool {
        let mut connection = self.connection.clone();
        let ping = redis::cmd("PING");
        let call = ping.query_async::<redis::Value>(&mut connection);
        matches!(tokio::time::timeout(limit, call).await, Ok(Ok(_)))
    }

    fn over(&self) {
        let mut held = self.outage.lock();
        held.0.over();
        let gone_for = held.1.take().map(|since| since.elapsed());
        tracing::info!(redis = %self.url, ?gone_for, "redis is back");
    }
}

/// Asks until the server answers, or nobody needs it any more. There is one at a time: the call that
/// begins an outage starts it, and only it ends the outage.
async fn probe(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(PROBE_EVERY.mul_f64(0.8 + 0.4 * rand::random::<f64>())).await;
        let Some(inner) = inner.upgrade() else { return };
        // The first may have to connect. Whether calls will be answered in time, only the second shows.
        if inner.pings(CONNECT_LIMIT).await && inner.pings(LIMIT).await {
            inner.over();
            return;
        }
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        let lost = error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
            || error.is_connection_refusal()
            || error.is_unrecoverable_error()
            || error.kind() == ErrorKind::AuthenticationFailed
            || error.code().is_some_and(|code| NOT_SERVING.contains(&code));
        if lost { Self::Broken(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}
