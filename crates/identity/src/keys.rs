//! The keys that a process accepts, followed in the key file and in the database.
//!
//! Guarantees that a change acts within about a second in every process of the fleet, and at once in the one
//! that makes it. While the file is invalid or the database is unreachable, the keys that were read last remain.

use std::{
    error::Error,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phase6_live::Live;
use phase6_store::{DatabaseUrl, PoolLimits, Store, StoreError};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    ApiKey, Authentication, Digest, InvalidKeyLine, KeyFile, KeyId, KeySource, ListedKey, Name, Principal,
    Role,
    key_set::{KeyPolicy, KeySet},
    key_table::{KeyTable, MIGRATIONS},
};

/// Pause between two looks at the key file and the database.
const PERIOD: Duration = Duration::from_secs(1);
/// Largest number of keys in the database that are not revoked.
const MAX_KEYS: i64 = 10_000;
/// Pause between attempts to open a database that is unavailable.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Places where a process finds its keys.
#[derive(Clone, Debug, Default)]
pub struct KeysConfig {
    /// Key file.
    pub file: Option<PathBuf>,
    /// Database. Without one, keys can only be changed in the file.
    pub database: Option<DatabaseUrl>,
    /// True if other machines reach the process: then keys are required even if none exists.
    pub always_required: bool,
}

/// A key to create.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Principal of the key.
    pub principal: Principal,
    /// Time of the creation.
    pub now: Timestamp,
}

/// Failure to read the keys at the start.
#[derive(Debug, thiserror::Error)]
pub enum OpenKeysError {
    /// The key file cannot be read.
    #[error("cannot read the key file {}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// The key file is invalid.
    #[error("the key file {} is invalid", path.display())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// The first invalid line.
        source: InvalidKeyLine,
    },
    /// The database cannot be used.
    #[error("cannot read the API keys from {database}")]
    Store {
        /// Address of the database, without its password.
        database: String,
        /// Cause of the failure.
        source: StoreError,
    },
}

/// Failure to create or revoke a key.
#[derive(Debug, thiserror::Error)]
pub enum ChangeKeysError {
    /// The process has no database for keys.
    #[error("this fleet has no database that its services share, so its API keys are in its key file")]
    NoDatabase,
    /// The first key must let somebody create further ones.
    #[error(
        "the first key closes the fleet, so it must be able to create others; accepted: the role admin in the \
         tenant default"
    )]
    FirstKey,
    /// The key is in the key file, which a process does not write.
    #[error("the key {0} is in the key file; remove its line")]
    InFile(KeyId),
    /// The database has as many keys as it may have.
    #[error("{MAX_KEYS} keys exist; revoke some first")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The keys that a process accepts. Clones share them.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    config: KeysConfig,
    set: Live<KeySet>,
    /// Held while the keys are read or changed.
    reader: Mutex<Reader>,
}

/// The keys of each place as they were read last.
#[derive(Default)]
struct Reader {
    file: KeyFile,
    /// Problem of the file that has been logged.
    file_problem: Option<String>,
    table: Option<KeyTable>,
    table_keys: Vec<(Digest, ListedKey)>,
    /// Version of the table that was read; `None` before the first time.
    version: Option<i64>,
    is_database_failing: bool,
    /// True once a key has existed.
    has_had_keys: bool,
}

impl Keys {
    /// Accepts everybody, and has no place for keys.
    pub fn none() -> Self {
        Self::new(KeysConfig::default(), KeyPolicy::Open)
    }

    /// Accepts the keys of a key file, which never change.
    pub fn fixed(file: KeyFile) -> Self {
        let keys = Self::none();
        keys.inner.publish(&mut Reader { file, ..Reader::default() });
        keys
    }

    fn new(config: KeysConfig, policy: KeyPolicy) -> Self {
        let set = Live::new(KeySet::new([], policy));
        Self { inner: Arc::new(Inner { config, set, reader: Mutex::default() }) }
    }

    /// Reads the keys. A database that is unavailable is waited for up to `wait`, unless the key file has keys:
    /// then [`Keys::follow`] reads those of the database as soon as it can.
    ///
    /// # Errors
    ///
    /// See [`OpenKeysError`].
    pub async fn open(config: KeysConfig, wait: Duration) -> Result<Self, OpenKeysError> {
        let due = Instant::now() + wait;
        let keys = Self::new(config, KeyPolicy::Incomplete);
        let mut reader = keys.inner.reader.lock().await;
        reader.read_file(&keys.inner.config).await?;
        loop {
            match reader.read_table(&keys.inner.config).await {
                Ok(_) => break,
                Err(error) if error.is_unavailable() && !reader.file.keys().is_empty() => {
                    tracing::warn!(%error, "starting with the keys of the key file only");
                    reader.is_database_failing = true;
                    break;
                }
                Err(error) if error.is_unavailable() && Instant::now() < due => {
                    tracing::warn!(%error, "waiting for the database of the API keys");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(source) => {
                    let database = keys.inner.config.database.as_ref().map(ToString::to_string);
                    return Err(OpenKeysError::Store { database: database.unwrap_or_default(), source });
                }
            }
        }
        keys.inner.publish(&mut reader);
        drop(reader);
        Ok(keys)
    }

    /// Identifies the principal of a presented key.
    pub fn authenticate(&self, key: Option<&[u8]>) -> Authentication {
        self.inner.set.load().authenticate(key)
    }

    /// True if no key is accepted.
    pub fn is_empty(&self) -> bool {
        self.inner.set.load().is_empty()
    }

    /// True if requests without an accepted key are rejected.
    pub fn are_required(&self) -> bool {
        self.authenticate(None) == Authentication::Rejected
    }

    /// Returns the keys of a tenant, or of all, by ID.
    pub fn list(&self, tenant: Option<&Name>) -> Vec<ListedKey> {
        self.inner.set.load().list(tenant)
    }

    /// Creates a key in the database.
    ///
    /// # Errors
    ///
    /// See [`ChangeKeysError`].
    pub async fn create(&self, new: NewKey) -> Result<(KeyId, ApiKey), ChangeKeysError> {
        let NewKey { principal, now } = new;
        let is_first = self.inner.set.load().policy == KeyPolicy::Open;
        if is_first && !(principal.role == Role::Admin && principal.is_in_default_tenant()) {
            return Err(ChangeKeysError::FirstKey);
        }
        let key = ApiKey::random();
        let digest = key.digest();
        let listed =
            ListedKey { id: digest.id(), principal, created: Some(now), source: KeySource::Database };
        let id = listed.id.clone();
        let mut reader = self.inner.reader.lock().await;
        let table = reader.connect(&self.inner.config).await?.ok_or(ChangeKeysError::NoDatabase)?;
        if !table.insert(digest, &listed, MAX_KEYS).await? {
            return Err(ChangeKeysError::TooMany);
        }
        self.reload(&mut reader).await;
        Ok((id, key))
    }

    /// Revokes a key, of `tenant` or of any. Returns false if there is none.
    ///
    /// # Errors
    ///
    /// See [`ChangeKeysError`].
    pub async fn revoke(
        &self,
        id: &KeyId,
        tenant: Option<&Name>,
        now: Timestamp,
    ) -> Result<bool, ChangeKeysError> {
        let is_visible = |key: &ListedKey| tenant.is_none_or(|tenant| *tenant == key.principal.tenant);
        let is_in_file = {
            let set = self.inner.set.load();
            set.get(id).is_some_and(|key| key.source == KeySource::File && is_visible(key))
        };
        if is_in_file {
            return Err(ChangeKeysError::InFile(id.clone()));
        }
        let mut reader = self.inner.reader.lock().await;
        let Some(table) = reader.connect(&self.inner.config).await? else { return Ok(false) };
        let is_revoked = table.revoke(id, tenant, now).await?;
        self.reload(&mut reader).await;
        Ok(is_revoked)
    }

    /// Reads changes of the key file and of the database every second, until `stop` is cancelled.
    pub async fn follow(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            self.refresh().await;
        }
    }

    /// Reads changes of the key file and of the database now.
    pub async fn refresh(&self) {
        let mut reader = self.inner.reader.lock().await;
        self.reload(&mut reader).await;
    }

    /// Reads what has changed. Failures are logged once.
    async fn reload(&self, reader: &mut Reader) {
        let mut is_changed = false;
        let problem = match reader.read_file(&self.inner.config).await {
            Ok(is_file_changed) => {
                is_changed |= is_file_changed;
                None
            }
            Err(error) => Some(error.source().map(ToString::to_string).unwrap_or_default()),
        };
        if let Some(problem) = problem.as_deref().filter(|_| problem != reader.file_problem) {
            tracing::error!(error = problem, "key file not read; its last valid keys remain accepted");
        }
        reader.file_problem = problem;
        match reader.read_table(&self.inner.config).await {
            Ok(is_table_changed) => {
                is_changed |= is_table_changed;
                reader.is_database_failing = false;
            }
            Err(error) if !reader.is_database_failing => {
                tracing::warn!(%error, "API keys not read from the database; the last ones remain accepted");
                reader.is_database_failing = true;
            }
            Err(_) => {}
        }
        if is_changed {
            self.inner.publish(reader);
        }
    }
}

impl Inner {
    /// Makes the keys that were read last the accepted ones.
    fn publish(&self, reader: &mut Reader) {
        let from_file = reader.file.keys().iter().map(|(digest, principal)| {
            let principal = principal.clone();
            (*digest, ListedKey { id: digest.id(), principal, created: None, source: KeySource::File })
        });
        let keys: Vec<_> = reader.table_keys.iter().cloned().chain(from_file).collect();
        reader.has_had_keys |= !keys.is_empty() || reader.version.is_some_and(|version| version > 0);
        let policy = if self.config.database.is_some() && reader.version.is_none() {
            KeyPolicy::Incomplete
        } else if reader.has_had_keys || self.config.always_required {
            KeyPolicy::Required
        } else {
            KeyPolicy::Open
        };
        self.set.set(KeySet::new(keys, policy));
    }
}

impl Reader {
    /// Reads the key file. Returns true if it has changed. The text is compared, because a mounted Secret is replaced
    /// without a change of its own time.
    async fn read_file(&mut self, config: &KeysConfig) -> Result<bool, OpenKeysError> {
        let Some(path) = &config.file else { return Ok(false) };
        let text = tokio::fs::read_to_string(path)
            .await
            .map_err(|source| OpenKeysError::Unreadable { path: path.clone(), source })?;
        if text == self.file.text() {
            return Ok(false);
        }
        self.file =
            KeyFile::parse(&text).map_err(|source| OpenKeysError::Invalid { path: path.clone(), source })?;
        Ok(true)
    }

    /// Reads the table. Returns true if it has changed.
    async fn read_table(&mut self, config: &KeysConfig) -> Result<bool, StoreError> {
        let Some(table) = self.connect(config).await? else { return Ok(false) };
        // Before the keys: a change in between is read again.
        let version = table.version().await?;
        if self.version == Some(version) {
            return Ok(false);
        }
        self.table_keys = table.read().await?;
        self.version = Some(version);
        Ok(true)
    }

    async fn connect(&mut self, config: &KeysConfig) -> Result<Option<KeyTable>, StoreError> {
        if self.table.is_none()
            && let Some(url) = &config.database
        {
            let store =
                Store::connect(url, PoolLimits { max_connections: 1, ..PoolLimits::default() }).await?;
            store.migrate("phase6_identity", &MIGRATIONS).await?;
            self.table = Some(KeyTable(store));
        }
        Ok(self.table.clone())
    }
}
