//! The client: a time limit on every call, and a probe that ends an outage.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, ScriptInvocation};

use crate::{
    RedisUrl, WaitBudget,
    connection::Connection,
    discovery::locate_server,
    outage::{CallOutcome, OutageDetector},
    url::Topology,
};

/// Longest duration of a call.
pub const CALL_LIMIT: Duration = Duration::from_millis(25);
/// Interval between two probes during an outage, before jitter.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Longest time to establish a connection; also the limit of a probe.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Longest time that a blocking command (`BLOCK`) may wait on the server.
pub const BLOCK_LIMIT: Duration = Duration::from_millis(300);

/// Error codes of a server that is reachable but cannot serve commands now.
const UNABLE_TO_SERVE: [&str; 5] = ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"];
/// Error codes of a server that does not own the keys, or no longer accepts writes.
const WRONG_SERVER: [&str; 3] = ["READONLY", "MOVED", "ASK"];

/// Client of the server that owns the keys of one prefix. Clones share the connection.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    url: RedisUrl,
    /// Prefix of every key, in braces as a hash tag: a cluster keeps the keys in one slot.
    prefix: String,
    /// `None` until the server has been located.
    connection: Mutex<Option<Connection>>,
    outage: Mutex<Outage>,
}

#[derive(Clone, Copy, Default)]
struct Outage {
    detector: OutageDetector,
    /// Start of the current outage.
    since: Option<Instant>,
}

/// Failure of a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// The command was not sent because of an outage.
    #[error("Redis is unavailable; a probe is waiting for it to recover")]
    Unavailable,
    /// The server did not reply within the remaining wait budget. The command may have run.
    #[error("Redis did not reply within {} ms", CALL_LIMIT.as_millis())]
    TimedOut,
    /// The connection could not be established or was lost, or the server cannot serve commands now. The
    /// command may have run.
    #[error("connection to Redis failed: {0}")]
    ConnectionFailed(String),
    /// The server does not own the keys or is read-only. The command did not run.
    #[error("Redis server does not own the keys or is read-only: {0}")]
    WrongServer(String),
    /// The server replied with an error, or with a value of an unexpected type.
    #[error("Redis rejected the command: {0}")]
    Rejected(String),
}

/// Address and availability of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Address without its password.
    pub address: String,
    /// Time since the current outage began; `None` while the server is available.
    pub outage: Option<Duration>,
}

impl Redis {
    /// Creates a client for the keys that begin with `prefix`, with separate connections and separate outage
    /// detection. Does not connect, so a service can start while Redis is down. Requires a tokio runtime.
    ///
    /// # Errors
    ///
    /// The client library does not accept the address.
    pub fn new(url: &RedisUrl, prefix: &str) -> Result<Self, RedisError> {
        // A single server needs no lookup.
        let connection = match (&url.topology, url.addresses.first()) {
            (Topology::Single, Some(address)) => Some(Connection::new(url, address.clone())?),
            _ => None,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                url: url.clone(),
                prefix: prefix.to_owned(),
                connection: Mutex::new(connection),
                outage: Mutex::default(),
            }),
        })
    }

    /// Prefix of all keys; identifies the client in a log when several share a server.
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// Returns the full key for `name`.
    pub fn key(&self, name: impl fmt::Display) -> String {
        format!("{{{}}}:{name}", self.inner.prefix)
    }

    /// Runs a blocking command, which the server answers when an event occurs or after [`BLOCK_LIMIT`]. Uses
    /// a separate connection; supports one caller at a time.
    ///
    /// The command is sent during an outage too, and its failures count towards an outage, so an idle service
    /// detects one as well.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn blocking_command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let connection = self.inner.connection();
        let call = async { Ok(command.query_async(&mut connection?.blocking).await?) };
        let result = tokio::time::timeout(BLOCK_LIMIT + 2 * CONNECT_LIMIT, call).await;
        let result = result.unwrap_or(Err(RedisError::TimedOut));
        // A reply to a blocking command does not show that other commands are answered in time.
        if result.is_err() {
            self.record(&result);
        }
        result
    }

    /// Connects now, so that the first calls do not have to. Returns after a bounded time even if the server
    /// is not reachable; later calls then connect.
    pub async fn warm_up(&self) {
        self.inner.locate().await;
        self.inner.ping(CONNECT_LIMIT).await;
    }

    /// Runs a command within [`CALL_LIMIT`].
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let connection = self.inner.connection();
        self.call(WaitBudget::default(), async { Ok(command.query_async(&mut connection?.commands).await?) })
            .await
    }

    /// Runs a script within [`CALL_LIMIT`]; loads it into the server first if necessary.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        self.script_within(WaitBudget::default(), script).await
    }

    /// Runs a script within the remaining budget of a request. A timeout of a reduced budget is no evidence
    /// of an outage: with the full budget the reply might have been in time.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn script_within<T: FromRedisValue>(
        &self,
        budget: WaitBudget,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let connection = self.inner.connection();
        self.call(budget, async { Ok(script.invoke_async(&mut connection?.commands).await?) }).await
    }

    /// Returns the address and availability of the server.
    pub fn status(&self) -> ServerStatus {
        let outage = self.inner.outage.lock().since.map(|since| since.elapsed());
        ServerStatus { address: self.inner.url.to_string(), outage }
    }

    async fn call<T>(
        &self,
        budget: WaitBudget,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        if self.inner.outage.lock().detector.is_outage() {
            return Err(RedisError::Unavailable);
        }
        let Ok(result) = tokio::time::timeout(budget.remaining(), call).await else {
            let result = Err(RedisError::TimedOut);
            if budget == WaitBudget::default() {
                self.record(&result);
            }
            return result;
        };
        self.record(&result);
        result
    }

    /// Records the outcome of a call; starts the probe if the call begins an outage.
    fn record<T>(&self, result: &Result<T, RedisError>) {
        let outcome = match result {
            Ok(_) | Err(RedisError::Rejected(_)) => CallOutcome::Replied,
            // Such a server may still answer reads, so only a new lookup finds the right one.
            Err(RedisError::WrongServer(_)) if self.inner.url.topology != Topology::Single => {
                CallOutcome::WrongServer
            }
            Err(_) => CallOutcome::Failed,
        };
        if self.inner.record(outcome) {
            tokio::spawn(probe(Arc::downgrade(&self.inner)));
        }
    }
}

impl Inner {
    fn connection(&self) -> Result<Connection, RedisError> {
        let unknown = || RedisError::ConnectionFailed("server address not yet known".to_owned());
        self.connection.lock().clone().ok_or_else(unknown)
    }

    /// Looks up the server and replaces the connection if its address has changed.
    async fn locate(&self) {
        if self.url.topology == Topology::Single {
            return;
        }
        // Any key with the hash tag is in the same slot.
        let Some(address) = locate_server(&self.url, &format!("{{{}}}", self.prefix), CONNECT_LIMIT).await
        else {
            return;
        };
        let server = address.to_string();
        if self.connection.lock().as_ref().is_some_and(|connection| connection.address == server) {
            return;
        }
        match Connection::new(&self.url, address) {
            Ok(connection) => {
                tracing::info!(redis = %self.url, prefix = self.prefix, server, "located the Redis server");
                *self.connection.lock() = Some(connection);
            }
            Err(error) => {
                tracing::warn!(redis = %self.url, prefix = self.prefix, server, %error, "failed to connect to Redis");
            }
        }
    }

    /// Returns true if this outcome begins an outage.
    fn record(&self, outcome: CallOutcome) -> bool {
        let mut outage = self.outage.lock();
        let began = outage.detector.record(outcome);
        if began {
            outage.since = Some(Instant::now());
            tracing::warn!(redis = %self.url, prefix = self.prefix, "Redis is unavailable");
        }
        began
    }

    async fn ping(&self, limit: Duration) -> bool {
        let Ok(Connection { mut commands, .. }) = self.connection() else { return false };
        let ping = redis::cmd("PING");
        let call = ping.query_async::<redis::Value>(&mut commands);
        matches!(tokio::time::timeout(limit, call).await, Ok(Ok(_)))
    }

    fn end_outage(&self) {
        let mut outage = self.outage.lock();
        outage.detector.end();
        let outage_ms = outage.since.take().map(|since| since.elapsed().as_millis() as u64);
        tracing::info!(redis = %self.url, prefix = self.prefix, outage_ms, "Redis is available again");
    }
}

/// Probes the server until it replies in time or the last client is dropped.
///
/// At most one probe runs: the call that begins an outage spawns it, and only the probe ends the outage.
async fn probe(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL.mul_f64(0.8 + 0.4 * rand::random::<f64>())).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.locate().await;
        // The first ping may have to connect; only the second shows that calls are answered in time.
        if inner.ping(CONNECT_LIMIT).await && inner.ping(CALL_LIMIT).await {
            inner.end_outage();
            return;
        }
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        if error.code().is_some_and(|code| WRONG_SERVER.contains(&code)) {
            return Self::WrongServer(error.to_string());
        }
        let failed = error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
            || error.is_connection_refusal()
            || error.is_unrecoverable_error()
            || error.kind() == ErrorKind::AuthenticationFailed
            || error.code().is_some_and(|code| UNABLE_TO_SERVE.contains(&code));
        if failed { Self::ConnectionFailed(error.to_string()) } else { Self::Rejected(error.to_string()) }
    }
}
