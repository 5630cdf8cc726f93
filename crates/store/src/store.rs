//! The store: a connection pool with migrations, transactions and statistics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{
    AnyConnection, AnyPool, Connection, Executor, SqlSafeStr,
    any::AnyPoolOptions,
    migrate::{self, MigrationType, Migrator},
};

use crate::{
    DatabaseUrl, StoreError, TransientCondition, plan,
    slow::{SlowLog, SlowStatement, normalize},
    statement::{Tx, with_limit},
};

/// Longest duration of a statement, including the wait for a connection.
pub(crate) const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// Longest time to explain a slow statement.
const PLAN_LIMIT: Duration = Duration::from_secs(5);

/// Limits of a connection pool.
#[derive(Clone, Debug)]
pub struct PoolLimits {
    /// Maximum number of connections, at least 1.
    pub max_connections: u32,
    /// Longest wait for a free connection.
    pub acquire_timeout: Duration,
    /// Idle time after which a connection is closed.
    pub idle_timeout: Duration,
    /// Age at which a connection is replaced.
    pub max_lifetime: Duration,
    /// Duration from which on a statement is recorded as slow.
    pub slow_statement: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            max_connections: 5,
            acquire_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_mins(1),
            max_lifetime: Duration::from_mins(30),
            slow_statement: Duration::from_millis(100),
        }
    }
}

/// One step of a schema. A step that has been applied anywhere must not change.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Version; steps are applied in ascending order.
    pub version: i64,
    /// Short description.
    pub name: &'static str,
    /// Statements in the SQL that both databases understand.
    pub sql: &'static str,
}

impl Migration {
    fn to_sqlx(self) -> migrate::Migration {
        migrate::Migration::new(
            self.version,
            self.name.into(),
            MigrationType::Simple,
            self.sql.into_sql_str(),
            false,
        )
    }
}

/// Connection to one database. Clones share the pool.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    url: DatabaseUrl,
    limits: PoolLimits,
    read_pool: AnyPool,
    /// For SQLite a pool of one connection: it allows one writer at a time, and the pool is a fair queue for
    /// it. For PostgreSQL the same pool as `read_pool`.
    write_pool: AnyPool,
    slow: SlowLog,
    statements: AtomicU64,
}

/// State of a connection pool.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSnapshot {
    /// Database engine: `sqlite` or `postgres`.
    pub kind: &'static str,
    /// Number of open connections.
    pub pool_size: u32,
    /// Number of connections in use.
    pub active_count: u32,
    /// Number of idle connections.
    pub available_connections: u32,
    /// Maximum number of connections.
    pub max_connections: u32,
    /// Connections in use relative to the maximum, from 0 to 1.
    pub utilization: f64,
    /// Longest wait for a connection, in milliseconds.
    pub acquire_timeout_ms: u64,
    /// Number of statements run since the start.
    pub statements: u64,
    /// Slow statements, slowest first.
    pub slow_statements: Vec<SlowStatement>,
}

/// Number of open and idle connections of a pool.
#[derive(Clone, Copy)]
struct ConnectionCounts {
    open: u32,
    idle: u32,
}

impl ConnectionCounts {
    fn of(pool: &AnyPool) -> Self {
        let open = pool.size();
        // The pool reads the two numbers one after the other, so the idle count can be larger.
        Self { open, idle: u32::try_from(pool.num_idle()).unwrap_or(open).min(open) }
    }
}

impl Store {
    /// Connects to the database. Creates a missing SQLite file and its folders.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or the file cannot be written.
    pub async fn connect(url: &DatabaseUrl, limits: PoolLimits) -> Result<Self, StoreError> {
        let deadline = Instant::now() + limits.acquire_timeout;
        loop {
            match Self::try_connect(url, limits.clone()).await {
                // Several programs that start with one new file contend for it while they set it up, and
                // SQLite's busy timeout does not cover every such case.
                Err(StoreError::Unavailable { condition: TransientCondition::Busy, .. })
                    if Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
    }

    async fn try_connect(url: &DatabaseUrl, limits: PoolLimits) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        if let DatabaseUrl::Sqlite(path) = url
            && let Some(folder) = path.parent()
        {
            std::fs::create_dir_all(folder).map_err(sqlx::Error::Io)?;
        }
        let address = url.connect_string();
        let options = |max_connections| {
            let sqlite = matches!(url, DatabaseUrl::Sqlite(_));
            AnyPoolOptions::new()
                .max_connections(max_connections)
                .acquire_timeout(limits.acquire_timeout)
                .idle_timeout(limits.idle_timeout)
                .max_lifetime(limits.max_lifetime)
                .test_before_acquire(!sqlite)
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        let setup = if sqlite { SQLITE_SETUP } else { POSTGRES_SETUP };
                        connection.execute(sqlx::raw_sql(setup)).await.map(drop)
                    })
                })
        };
        check_usable(url, limits.acquire_timeout).await?;
        let (read_pool, write_pool) = match url {
            DatabaseUrl::Sqlite(_) => {
                let write_pool = with_limit(options(1).connect(&address)).await?;
                (with_limit(options(limits.max_connections.max(1)).connect(&address)).await?, write_pool)
            }
            DatabaseUrl::Postgres(_) => {
                let pool = with_limit(options(limits.max_connections.max(1)).connect(&address)).await?;
                (pool.clone(), pool)
            }
        };
        let inner = Inner {
            url: url.clone(),
            limits,
            read_pool,
            write_pool,
            slow: SlowLog::default(),
            statements: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Applies the pending migrations of `owner`. Each owner has a separate table of applied migrations, so
    /// several owners can share a database.
    ///
    /// # Errors
    ///
    /// A migration failed, or an applied migration has changed.
    pub async fn migrate(&self, owner: &str, migrations: &[Migration]) -> Result<(), StoreError> {
        let migrations = migrations.iter().copied().map(Migration::to_sqlx).collect();
        let mut migrator = Migrator::with_migrations(migrations);
        migrator.dangerous_set_table_name(format!("phase6_migrations_{owner}"));
        migrator.run(&self.inner.write_pool).await?;
        Ok(())
    }

    /// Begins a transaction that writes.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let begin = match self.inner.url {
            // A deferred transaction that reads first can fail when it starts to write.
            DatabaseUrl::Sqlite(_) => "BEGIN IMMEDIATE",
            DatabaseUrl::Postgres(_) => "BEGIN",
        };
        let inner = with_limit(self.inner.write_pool.begin_with(begin)).await?;
        Ok(Tx { inner, store: self.clone(), after_commit: vec![] })
    }

    /// Checks that the database responds.
    ///
    /// # Errors
    ///
    /// The database does not respond.
    pub async fn ping(&self) -> Result<(), StoreError> {
        crate::sql("SELECT 1").first(self).await.map(drop)
    }

    /// Returns an SQL expression for the clock of the database, in milliseconds since the Unix epoch. The value
    /// is that of the statement, not of the transaction.
    pub fn now_ms_sql(&self) -> &'static str {
        match self.inner.url {
            DatabaseUrl::Sqlite(_) => "CAST(unixepoch('now', 'subsec') * 1000 AS BIGINT)",
            DatabaseUrl::Postgres(_) => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }

    /// Returns the state of the pool.
    pub fn snapshot(&self) -> PoolSnapshot {
        let Inner { url, limits, read_pool, write_pool, slow, statements } = &*self.inner;
        let ConnectionCounts { mut open, mut idle } = ConnectionCounts::of(read_pool);
        let mut max = limits.max_connections.max(1);
        if matches!(url, DatabaseUrl::Sqlite(_)) {
            let writer = ConnectionCounts::of(write_pool);
            open += writer.open;
            idle += writer.idle;
            max += 1;
        }
        let active = open.saturating_sub(idle);
        PoolSnapshot {
            kind: match url {
                DatabaseUrl::Sqlite(_) => "sqlite",
                DatabaseUrl::Postgres(_) => "postgres",
            },
            pool_size: open,
            active_count: active,
            available_connections: idle,
            max_connections: max,
            utilization: f64::from(active) / f64::from(max),
            acquire_timeout_ms: limits.acquire_timeout.as_millis() as u64,
            statements: statements.load(Ordering::Relaxed),
            slow_statements: slow.list(),
        }
    }

    /// Closes the pool: waits for running statements and fails new ones, including those that wait for a
    /// connection.
    pub async fn close(&self) {
        self.inner.read_pool.close().await;
        self.inner.write_pool.close().await;
    }

    pub(crate) fn read_pool(&self) -> &AnyPool {
        &self.inner.read_pool
    }

    pub(crate) fn write_pool(&self) -> &AnyPool {
        &self.inner.write_pool
    }

    /// Counts a statement. Logs and explains it if it was slow for the first time.
    pub(crate) fn record_duration(&self, text: &str, duration: Duration) {
        self.inner.statements.fetch_add(1, Ordering::Relaxed);
        if duration < self.inner.limits.slow_statement
            || !self.inner.slow.record(text, duration, Timestamp::now())
        {
            return;
        }
        tracing::warn!(statement = normalize(text), took_ms = duration.as_millis() as u64, "slow statement");
        let (store, text) = (self.clone(), text.to_owned());
        tokio::spawn(async move {
            let explain = plan::explain(&store.inner.url, store.read_pool(), &text);
            // A statement that cannot be explained has no hint.
            if let Ok(Ok(plan)) = tokio::time::timeout(PLAN_LIMIT, explain).await
                && let Some(hint) = plan::hint(&text, &plan)
            {
                store.inner.slow.set_hint(&text, hint);
            }
        });
    }
}

/// Opens and closes one connection without a pool. A pool that cannot connect reports only that it has no
/// free connection and hides the cause.
async fn check_usable(url: &DatabaseUrl, limit: Duration) -> Result<(), StoreError> {
    let check = async {
        let mut connection = AnyConnection::connect(&url.connect_string()).await?;
        if matches!(url, DatabaseUrl::Sqlite(_)) {
            check_writable(&mut connection).await?;
        }
        connection.close().await
    };
    match tokio::time::timeout(limit, check).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::timed_out()),
    }
}

/// Writes to a SQLite file and rolls back. Opening a read-only file and beginning to write it both succeed;
/// only the write fails.
async fn check_writable(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(SQLITE_SETUP)).await?;
    connection.execute(sqlx::raw_sql("BEGIN IMMEDIATE; PRAGMA user_version = 1; ROLLBACK")).await.map(drop)
}

/// Settings of a SQLite connection: readers never wait for the writer, and a commit is on disk.
const SQLITE_SETUP: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA busy_timeout = 5000;
    PRAGMA foreign_keys = ON;
    PRAGMA cache_size = -1024;
";

/// Settings of a PostgreSQL connection: server-side limits, which apply even if the client disappears.
const POSTGRES_SETUP: &str = "
    SET statement_timeout = '10s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '30s';
    SET application_name = 'phase6';
";

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a read-only file was noticed only by the first write. The test opens the file read-only,
    /// because file permissions do not apply to root.
    #[tokio::test]
    async fn detects_a_read_only_file() {
        sqlx::any::install_default_drivers();
        let folder = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::file(folder.path().join("test.db"));
        Store::connect(&url, PoolLimits::default()).await.unwrap().close().await;
        let read_only = url.connect_string().replace("mode=rwc", "mode=ro");
        let mut connection = AnyConnection::connect(&read_only).await.unwrap();
        let error = StoreError::from(check_writable(&mut connection).await.unwrap_err());
        assert_eq!(error.to_string(), "database unavailable: read-only");
    }

    /// Text of an error and all of its causes.
    fn chain(error: &StoreError) -> String {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    /// Regression: each of these was reported as "no free connection", after three seconds.
    #[tokio::test]
    async fn a_failed_connect_reports_its_cause() {
        let folder = tempfile::tempdir().unwrap();
        let corrupt = folder.path().join("corrupt.db");
        std::fs::write(&corrupt, "this is no database, ".repeat(100)).unwrap();
        for (url, cause) in [
            (DatabaseUrl::file(&corrupt), "file is not a database"),
            (DatabaseUrl::file(folder.path()), "unable to open database file"),
            ("postgres://nobody@127.0.0.1:1/none".parse().unwrap(), "refused"),
        ] {
            let Err(error) = Store::connect(&url, PoolLimits::default()).await else {
                panic!("connected to {url}")
            };
            let text = chain(&error);
            assert!(text.contains(cause) && !text.contains("no free connection"), "{url}: {text}");
        }
    }

    /// Each store sets the file up, which requires an exclusive lock on a new file.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_stores_can_open_one_new_file() {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let url = DatabaseUrl::file(folder.path().join("test.db"));
            let starting: Vec<_> = (0..8)
                .map(|_| {
                    let url = url.clone();
                    tokio::spawn(async move { Store::connect(&url, PoolLimits::default()).await.map(drop) })
                })
                .collect();
            for start in starting {
                start.await.unwrap().unwrap();
            }
        }
    }
}
