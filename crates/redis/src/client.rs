//! The client: a limit on every call, and a probe during outages, which also looks where the server is.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, ScriptInvocation};
use serde::Serialize;

use crate::{
    Patience, RedisUrl,
    find::server_of,
    link::Link,
    outage::{Outage, Told},
    url::Kind,
};

/// Longest time that a call takes.
pub const LIMIT: Duration = Duration::from_millis(25);
/// How often a server that is gone is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// How long a connection may take; also the limit of a probe.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Longest time that a server holds the answer of a command which waits for something to happen.
pub const HELD: Duration = Duration::from_millis(300);

/// Answers of a server that is there and does not serve.
const NOT_SERVING: [&str; 5] = ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"];
/// Answers of one that is no longer, or not yet, the server of our keys.
const ELSEWHERE: [&str; 3] = ["READONLY", "MOVED", "ASK"];

/// The server that has our keys. Clones are handles to the same connection.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    url: RedisUrl,
    /// All keys begin with it, in braces: a cluster keeps them in one place.
    prefix: String,
    /// None while it is not known where the server is.
    link: Mutex<Option<Link>>,
    outage: Mutex<(Outage, Option<Instant>)>,
}

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// The server counts as gone; it was not asked.
    #[error("Redis is gone; it is asked again by a probe")]
    Gone,
    /// It did not answer in time, within [`LIMIT`] at most. The command may have run.
    #[error("Redis did not answer within {} ms", LIMIT.as_millis())]
    TooSlow,
    /// The connection could not be made or broke. The command may have run.
    #[error("connection to Redis failed: {0}")]
    Broken(String),
    /// The server does not have our keys, or may not change them. The command did not run.
    #[error("another Redis server has our keys: {0}")]
    Elsewhere(String),
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
    /// The server of the keys that begin with `prefix`, over connections of its own and with its own
    /// judgement on whether it is gone. Does not connect yet: a service starts without its Redis too.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the client library cannot use the address.
    pub fn new(url: &RedisUrl, prefix: &str) -> Result<Self, RedisError> {
        // Where there is one server only, nobody need be asked for it.
        let link = match (&url.kind, url.addresses.first()) {
            (Kind::Single, Some(address)) => Some(Link::new(url, address.clone())?),
            _ => None,
        };
        let (url, prefix, link) = (url.clone(), prefix.to_owned(), Mutex::new(link));
        Ok(Self { inner: Arc::new(Inner { url, prefix, link, outage: Mutex::default() }) })
    }

    /// What all its keys begin with: names the client in a log, where many have the same server.
    pub fn keys(&self) -> &str {
        &self.inner.prefix
    }

    /// The key of this name.
    pub fn key(&self, name: impl fmt::Display) -> String {
        format!("{{{}}}:{name}", self.inner.prefix)
    }

    /// Runs a command that the server answers when something happens, within [`HELD`] or somewhat more. On
    /// a connection of its own, for one caller at a time. It is sent during an outage too, and its failures
    /// begin one as those of other calls do: a service that nobody asks learns of it by this.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn wait<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let link = self.inner.link();
        let call = async { Ok(command.query_async(&mut link?.held).await?) };
        let result = tokio::time::timeout(HELD + 2 * CONNECT_LIMIT, call).await;
        let result = result.unwrap_or(Err(RedisError::TooSlow));
        // That these are answered does not say that others are, in time.
        if result.is_err() {
            self.tell(&result);
        }
        result
    }

    /// Connects now, so that the first calls need not wait for it. A server that is not there in time is
    /// connected to later.
    pub async fn warm_up(&self) {
        self.inner.look().await;
        self.inner.pings(CONNECT_LIMIT).await;
    }

    /// Runs a command.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let link = self.inner.link();
        self.within(Patience::default(), async { Ok(command.query_async(&mut link?.connection).await?) })
            .await
    }

    /// Runs a script, which the server may have to be sent first.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        self.script_for(Patience::default(), script).await
    }

    /// The same for a request that waits for it, and may have waited before. An answer that would have come in
    /// time for others says nothing about the server if it does not come in time for this one.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn script_for<T: FromRedisValue>(
        &self,
        patience: Patience,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let link = self.inner.link();
        self.within(patience, async { Ok(script.invoke_async(&mut link?.connection).await?) }).await
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

    async fn within<T>(
        &self,
        patience: Patience,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        if self.inner.outage.lock().0.is_gone() {
            return Err(RedisError::Gone);
        }
        let Ok(result) = tokio::time::timeout(patience.left(), call).await else {
            let result = Err(RedisError::TooSlow);
            if patience == Patience::default() {
                self.tell(&result);
            }
            return result;
        };
        self.tell(&result);
        result
    }

    /// Takes what a call says of the server, and looks for it when it is gone.
    fn tell<T>(&self, result: &Result<T, RedisError>) {
        let told = match result {
            Ok(_) | Err(RedisError::Refused(_)) => Told::Answered,
            // Reads may still be answered there, and nothing but a look says where the server is now.
            Err(RedisError::Elsewhere(_)) if self.inner.url.kind != Kind::Single => Told::Elsewhere,
            Err(_) => Told::Failed,
        };
        if self.inner.call_ended(told) {
            tokio::spawn(probe(Arc::downgrade(&self.inner)));
        }
    }
}

impl Inner {
    fn link(&self) -> Result<Link, RedisError> {
        let unknown = || RedisError::Broken("nobody has said yet where it is".to_owned());
        self.link.lock().clone().ok_or_else(unknown)
    }

    /// Looks where the server is, and connects to it if it is another one than before.
    async fn look(&self) {
        if self.url.kind == Kind::Single {
            return;
        }
        // Any key of ours: they are all in one place.
        let Some(address) = server_of(&self.url, &format!("{{{}}}", self.prefix), CONNECT_LIMIT).await else {
            return;
        };
        let named = address.to_string();
        if self.link.lock().as_ref().is_some_and(|link| link.address == named) {
            return;
        }
        match Link::new(&self.url, address) {
            Ok(link) => {
                tracing::info!(redis = %self.url, keys = self.prefix, server = named, "redis is served from here");
                *self.link.lock() = Some(link);
            }
            Err(error) => {
                tracing::warn!(redis = %self.url, keys = self.prefix, server = named, %error, "cannot connect to redis");
            }
        }
    }

    fn call_ended(&self, told: Told) -> bool {
        let mut held = self.outage.lock();
        let gone = held.0.call_ended(told);
        if gone {
            held.1 = Some(Instant::now());
            tracing::warn!(redis = %self.url, keys = self.prefix, "redis is gone");
        }
        gone
    }

    async fn pings(&self, limit: Duration) -> bool {
        let Ok(Link { mut connection, .. }) = self.link() else { return false };
        let ping = redis::cmd("PING");
        let call = ping.query_async::<redis::Value>(&mut connection);
        matches!(tokio::time::timeout(limit, call).await, Ok(Ok(_)))
    }

    fn over(&self) {
        let mut held = self.outage.lock();
        held.0.over();
        let gone_for = held.1.take().map(|since| since.elapsed());
        tracing::info!(redis = %self.url, keys = self.prefix, ?gone_for, "redis is back");
    }
}

/// Asks until the server answers, or nobody needs it any more. There is one at a time: the call that
/// begins an outage starts it, and only it ends the outage.
async fn probe(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(PROBE_EVERY.mul_f64(0.8 + 0.4 * rand::random::<f64>())).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.look().await;
        // The first may have to connect. Whether calls will be answered in time, only the second shows.
        if inner.pings(CONNECT_LIMIT).await && inner.pings(LIMIT).await {
            inner.over();
            return;
        }
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        if error.code().is_some_and(|code| ELSEWHERE.contains(&code)) {
            return Self::Elsewhere(error.to_string());
        }
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
