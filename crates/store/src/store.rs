//! The connection to the records: pool, migrations, and what it shows of itself.

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
    AnyConnection, AnyPool, AssertSqlSafe, Connection, Executor, Row, SqlSafeStr,
    any::{AnyPoolOptions, AnyRow},
    migrate::{self, MigrationType, Migrator},
};

use crate::{
    DatabaseUrl, StoreError,
    slow::{SlowLog, SlowStatement, hint},
    statement::{Tx, limited},
};

/// Longest time for one statement, waiting for a connection included.
pub(crate) const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for the look at a plan.
const PLAN_LIMIT: Duration = Duration::from_secs(5);

/// Bounds of a pool.
#[derive(Clone, Debug)]
pub struct PoolLimits {
    /// Most connections.
    pub max_connections: u32,
    /// Longest wait for a free one.
    pub acquire_timeout: Duration,
    /// A connection that was not used for so long is closed.
    pub idle_timeout: Duration,
    /// A connection is renewed after so long.
    pub max_lifetime: Duration,
    /// A statement that takes longer is remembered as slow.
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

/// One step of a schema. What was carried out once may never change.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Steps are carried out in the order of their versions.
    pub version: i64,
    /// What it is for.
    pub name: &'static str,
    /// Statements in the common SQL of both databases.
    pub sql: &'static str,
}

impl Migration {
    fn prepared(&self) -> migrate::Migration {
        migrate::Migration::new(
            self.version,
            self.name.into(),
            MigrationType::Simple,
            self.sql.into_sql_str(),
            false,
        )
    }
}

/// Records in one database. Clones share one pool.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    url: DatabaseUrl,
    limits: PoolLimits,
    reading: AnyPool,
    /// SQLite has one writer at a time: a pool of one is a fair queue for it. The same pool as
    /// `reading` for PostgreSQL.
    writing: AnyPool,
    slow: SlowLog,
    statements: AtomicU64,
}

/// What a pool does.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSnapshot {
    /// `sqlite` or `postgres`.
    pub kind: &'static str,
    /// Connections open.
    pub pool_size: u32,
    /// Those of them in use.
    pub active_count: u32,
    /// Those of them free.
    pub available_connections: u32,
    /// Most connections.
    pub max_connections: u32,
    /// Share of the most connections in use, from 0 to 1.
    pub utilization: f64,
    /// Longest wait for a connection, in milliseconds.
    pub acquire_timeout_ms: u64,
    /// Statements run since the start.
    pub statements: u64,
    /// Statements that took long, slowest first.
    pub slow_statements: Vec<SlowStatement>,
}

impl Store {
    /// Connects; a SQLite file and its folder are made when missing.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or the file cannot be written.
    pub async fn connect(url: &DatabaseUrl, limits: PoolLimits) -> Result<Self, StoreError> {
        let due = Instant::now() + limits.acquire_timeout;
        loop {
            match Self::connect_once(url, limits.clone()).await {
                // Several programs that start with one new file are in each other's way while the file
                // is set up; SQLite does not wait in every case.
                Err(StoreError::Unavailable { what: "busy", .. }) if Instant::now() < due => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                met => return met,
            }
        }
    }

    async fn connect_once(url: &DatabaseUrl, limits: PoolLimits) -> Result<Self, StoreError> {
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
        first_contact(url, limits.acquire_timeout).await?;
        let (reading, writing) = match url {
            DatabaseUrl::Sqlite(_) => {
                let writing = limited(options(1).connect(&address)).await?;
                (limited(options(limits.max_connections.max(1)).connect(&address)).await?, writing)
            }
            DatabaseUrl::Postgres(_) => {
                let pool = limited(options(limits.max_connections.max(1)).connect(&address)).await?;
                (pool.clone(), pool)
            }
        };
        let inner = Inner {
            url: url.clone(),
            limits,
            reading,
            writing,
            slow: SlowLog::default(),
            statements: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings the tables of `owner` up to date. Each owner keeps its own list of what was done, so
    /// several can share a database.
    ///
    /// # Errors
    ///
    /// A migration failed, or one that was done has been changed since.
    pub async fn migrate(&self, owner: &str, migrations: &[Migration]) -> Result<(), StoreError> {
        let mut migrations = Migrator::with_migrations(migrations.iter().map(Migration::prepared).collect());
        migrations.dangerous_set_table_name(format!("phase6_migrations_{owner}"));
        migrations.run(&self.inner.writing).await?;
        Ok(())
    }

    /// Begins a transaction that will write.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let begin = match self.inner.url {
            // A deferred transaction that first reads can fail when it begins to write.
            DatabaseUrl::Sqlite(_) => "BEGIN IMMEDIATE",
            DatabaseUrl::Postgres(_) => "BEGIN",
        };
        let inner = limited(self.inner.writing.begin_with(begin)).await?;
        Ok(Tx { inner, store: self.clone() })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    ///
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        crate::sql("SELECT 1").first(self).await.map(drop)
    }

    /// What the pool does.
    pub fn snapshot(&self) -> PoolSnapshot {
        let Inner { url, limits, reading, writing, slow, statements } = &*self.inner;
        // The two numbers of a pool are read one after the other, so idle can seem larger.
        let counts = |pool: &AnyPool| {
            let size = pool.size();
            (size, u32::try_from(pool.num_idle()).unwrap_or(size).min(size))
        };
        let (mut size, mut idle) = counts(reading);
        let mut max = limits.max_connections.max(1);
        if matches!(url, DatabaseUrl::Sqlite(_)) {
            let (writer, free) = counts(writing);
            size += writer;
            idle += free;
            max += 1;
        }
        let active = size.saturating_sub(idle);
        PoolSnapshot {
            kind: match url {
                DatabaseUrl::Sqlite(_) => "sqlite",
                DatabaseUrl::Postgres(_) => "postgres",
            },
            pool_size: size,
            active_count: active,
            available_connections: idle,
            max_connections: max,
            utilization: f64::from(active) / f64::from(max),
            acquire_timeout_ms: limits.acquire_timeout.as_millis() as u64,
            statements: statements.load(Ordering::Relaxed),
            slow_statements: slow.list(),
        }
    }

    /// Waits for statements that run, then closes every connection. New statements are refused at
    /// once, also those that wait for a connection.
    pub async fn close(&self) {
        self.inner.reading.close().await;
        self.inner.writing.close().await;
    }

    pub(crate) fn reading(&self) -> &AnyPool {
        &self.inner.reading
    }

    pub(crate) fn writing(&self) -> &AnyPool {
        &self.inner.writing
    }

    /// Takes note of how long a statement took.
    pub(crate) fn took(&self, text: &str, took: Duration) {
        self.inner.statements.fetch_add(1, Ordering::Relaxed);
        if took >= self.inner.limits.slow_statement && self.inner.slow.note(text, took, Timestamp::now()) {
            tracing::warn!(
                statement = crate::normalise(text),
                took_ms = took.as_millis() as u64,
                "slow statement"
            );
            let (store, text) = (self.clone(), text.to_owned());
            tokio::spawn(async move {
                // Only a hint: without a plan there is none.
                if let Ok(Ok(plan)) = tokio::time::timeout(PLAN_LIMIT, store.plan(&text)).await
                    && let Some(hint) = hint(&text, &plan)
                {
                    store.inner.slow.hint(&text, hint);
                }
            });
        }
    }

    /// The lines of a statement's plan, for no values in particular.
    async fn plan(&self, text: &str) -> Result<Vec<String>, sqlx::Error> {
        let run = |text: String| AssertSqlSafe(text).into_sql_str();
        match self.inner.url {
            DatabaseUrl::Sqlite(_) => {
                let rows =
                    sqlx::query(run(format!("EXPLAIN QUERY PLAN {text}"))).fetch_all(self.reading()).await?;
                rows.iter().map(|row| row.try_get("detail")).collect()
            }
            DatabaseUrl::Postgres(_) => {
                let values = (1..).take_while(|n| text.contains(&format!("${n}"))).map(|_| "NULL");
                let values = values.collect::<Vec<_>>().join(", ");
                let arguments = if values.is_empty() { values } else { format!("({values})") };
                let mut tx = self.reading().begin().await?;
                for setup in [
                    "SET LOCAL plan_cache_mode = force_generic_plan".to_owned(),
                    format!("PREPARE phase6_plan AS {text}"),
                ] {
                    sqlx::raw_sql(run(setup)).execute(&mut *tx).await?;
                }
                let explain = sqlx::raw_sql(run(format!("EXPLAIN EXECUTE phase6_plan{arguments}")));
                let rows: Result<Vec<AnyRow>, _> = explain.fetch_all(&mut *tx).await;
                sqlx::raw_sql("DEALLOCATE phase6_plan").execute(&mut *tx).await?;
                tx.rollback().await?;
                rows?.iter().map(|row| row.try_get(0)).collect()
            }
        }
    }
}

/// Connects once without a pool: a pool that cannot connect only says that it found no connection,
/// and hides why.
async fn first_contact(url: &DatabaseUrl, limit: Duration) -> Result<(), StoreError> {
    let meeting = async {
        let mut connection = AnyConnection::connect(&url.connect_string()).await?;
        if matches!(url, DatabaseUrl::Sqlite(_)) {
            prove_writable(&mut connection).await?;
        }
        connection.close().await
    };
    match tokio::time::timeout(limit, meeting).await {
        Ok(met) => Ok(met?),
        Err(_) => Err(StoreError::timed_out()),
    }
}

/// Opening a read-only file succeeds, and so does beginning to write it; only writing does not.
async fn prove_writable(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(SQLITE_SETUP)).await?;
    connection.execute(sqlx::raw_sql("BEGIN IMMEDIATE; PRAGMA user_version = 1; ROLLBACK")).await.map(drop)
}

/// Readers never wait for the writer; what is committed is on disk.
const SQLITE_SETUP: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA busy_timeout = 5000;
    PRAGMA foreign_keys = ON;
    PRAGMA cache_size = -1024;
";

/// The server's own limits, in case the client is gone.
const POSTGRES_SETUP: &str = "
    SET statement_timeout = '10s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '30s';
    SET application_name = 'phase6';
";

#[cfg(test)]
mod tests {
    use super::*;

    /// It was found out by the first record that somebody wanted to write. Here the file is opened
    /// read-only, because the permissions of a file do not bind who runs tests as root.
    #[tokio::test]
    async fn a_file_that_can_only_be_read_is_not_taken_for_one_that_can_be_written() {
        sqlx::any::install_default_drivers();
        let folder = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::file(folder.path().join("test.db"));
        Store::connect(&url, PoolLimits::default()).await.unwrap().close().await;
        let read_only = url.connect_string().replace("mode=rwc", "mode=ro");
        let mut connection = AnyConnection::connect(&read_only).await.unwrap();
        let error = StoreError::from(prove_writable(&mut connection).await.unwrap_err());
        assert_eq!(error.to_string(), "database unavailable: read-only");
    }

    /// An error with all its causes.
    fn chain(error: &StoreError) -> String {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    /// Each of these was "no free connection", after three seconds.
    #[tokio::test]
    async fn what_is_wrong_with_a_database_is_told_by_its_cause() {
        let folder = tempfile::tempdir().unwrap();
        let corrupt = folder.path().join("corrupt.db");
        std::fs::write(&corrupt, "this is no database, ".repeat(100)).unwrap();
        for (url, cause) in [
            (DatabaseUrl::file(&corrupt), "file is not a database"),
            (DatabaseUrl::file(folder.path()), "unable to open database file"),
            ("postgres://nobody@127.0.0.1:1/none".parse().unwrap(), "refused"),
        ] {
            let Err(error) = Store::connect(&url, PoolLimits::default()).await else { panic!("{url} works") };
            let told = chain(&error);
            assert!(told.contains(cause) && !told.contains("no free connection"), "{url}: {told}");
        }
    }

    /// Each sets the file up, and setting up a new one takes it for itself.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_can_start_with_one_new_file() {
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
