//! Second level in a SQLite file: a cache on a laptop survives restarts.
//!
//! All changes go through one queue and one task, in order, several per transaction. A response that does not
//! fit into the queue is dropped. An invalidation must not be lost: if it does not fit, the whole level is
//! emptied. For the same reason a file that was not closed, because the process was killed, is emptied at its
//! next use. A damaged file is replaced.

mod rows;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use sqlx::{
    Row, SqlitePool,
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
    },
};
use tokio::sync::{OnceCell, mpsc, oneshot};

use self::{rows::SCHEMA, writer::Change};
use crate::{
    Entry, Invalidation, Key, Level, LevelStats,
    level::{FoundEntry, LevelCounters, LevelLookup, LevelQuery, LevelWrite},
};

/// Largest number of queued changes.
const QUEUE_CAPACITY: usize = 1024;
const READ_TIMEOUT: Duration = Duration::from_millis(250);

/// A cache level in a file, which is opened at its first use.
pub struct Disk {
    state: Arc<DiskState>,
    queue: mpsc::Sender<Change>,
}

struct DiskState {
    file: PathBuf,
    max_bytes: u64,
    pool: OnceCell<SqlitePool>,
    /// Sequence number of the first invalidation that has not been applied.
    next_sequence: AtomicU64,
    /// True if an invalidation did not fit into the queue, so that the level has to be emptied.
    wipe: AtomicBool,
    /// Sequence number of the first invalidation that emptying the level does not cover.
    wiped_up_to: AtomicU64,
    counters: LevelCounters,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Disk {
    /// Creates a level in `file` that holds about `max_bytes` at most. Has to be called within a tokio
    /// runtime; the task that it starts ends when the level is dropped.
    pub fn new(file: impl AsRef<Path>, max_bytes: u64) -> Self {
        let (queue, changes) = mpsc::channel(QUEUE_CAPACITY);
        let state = Arc::new(DiskState {
            file: file.as_ref().to_owned(),
            max_bytes,
            pool: OnceCell::new(),
            next_sequence: AtomicU64::new(0),
            wipe: AtomicBool::new(false),
            wiped_up_to: AtomicU64::new(0),
            counters: LevelCounters::default(),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        tokio::spawn(Arc::clone(&state).apply_changes(changes));
        Self { state, queue }
    }
}

impl Level for Disk {
    fn get<'a>(&'a self, query: LevelQuery<'a>) -> BoxFuture<'a, LevelLookup> {
        Box::pin(async move {
            let state = &self.state;
            // Taken before the read: the caller checks the entry against every later invalidation.
            let next_sequence = state.next_sequence.load(Ordering::Acquire);
            let entry = match tokio::time::timeout(READ_TIMEOUT, state.read(query.key)).await {
                Ok(Ok(entry)) => entry
                    .filter(|entry| entry.matches_request(&query.key.tenant, &query.key.uri, query.headers)),
                Ok(Err(error)) => {
                    state.record_failure(&error);
                    None
                }
                Err(_) => None,
            };
            let counter = if entry.is_some() { &state.counters.hits } else { &state.counters.misses };
            counter.fetch_add(1, Ordering::Relaxed);
            LevelLookup { found: entry.map(|entry| FoundEntry { entry, next_sequence }), guard: None }
        })
    }

    fn put(&self, write: LevelWrite) {
        if self.queue.try_send(Change::Store(write.entry)).is_err() {
            self.state.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn invalidate(&self, invalidation: Invalidation, sequence: u64) {
        if self.queue.try_send(Change::Invalidate { invalidation, sequence }).is_err() {
            self.state.wiped_up_to.fetch_max(sequence + 1, Ordering::Release);
            self.state.wipe.store(true, Ordering::Release);
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let (done, closed) = oneshot::channel();
            if self.queue.send(Change::Close { done }).await.is_ok() {
                let _ = closed.await;
            }
        })
    }

    fn stats(&self) -> LevelStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = &self.state;
        LevelStats {
            entries: get(&state.entries),
            bytes: get(&state.bytes),
            is_shared: false,
            in_sync: true,
            ..state.counters.stats()
        }
    }
}

impl DiskState {
    async fn pool(&self) -> Result<&SqlitePool, sqlx::Error> {
        self.pool
            .get_or_try_init(|| async {
                match self.open().await {
                    Ok(pool) => Ok(pool),
                    Err(error) if is_damaged(&error) => {
                        // A cache holds nothing that cannot be fetched again.
                        tracing::warn!(
                            file = %self.file.display(),
                            %error,
                            "replacing the damaged cache file"
                        );
                        for suffix in ["", "-wal", "-shm"] {
                            let mut name = self.file.clone().into_os_string();
                            name.push(suffix);
                            let _ = tokio::fs::remove_file(name).await;
                        }
                        self.open().await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn open(&self) -> Result<SqlitePool, sqlx::Error> {
        if let Some(folder) = self.file.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.file)
            .create_if_missing(true)
            .auto_vacuum(SqliteAutoVacuum::Full)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(1))
            .pragma("cache_size", "-256");
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .idle_timeout(Duration::from_secs(30))
            .acquire_timeout(Duration::from_secs(2))
            .connect_with(options)
            .await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        // `user_version` is 1 while a process uses the file, and 0 after it was closed.
        let in_use: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&pool).await?;
        if in_use != 0 {
            sqlx::raw_sql("DELETE FROM entries; DELETE FROM tags").execute(&pool).await?;
        }
        sqlx::raw_sql("PRAGMA user_version = 1").execute(&pool).await?;
        self.measure(&pool).await?;
        Ok(pool)
    }

    /// Updates the counts of entries and bytes held.
    async fn measure(&self, pool: &SqlitePool) -> Result<(), sqlx::Error> {
        let row =
            sqlx::query("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM entries").fetch_one(pool).await?;
        self.entries.store(row.get::<i64, _>(0) as u64, Ordering::Relaxed);
        self.bytes.store(row.get::<i64, _>(1) as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn read(&self, key: &Key) -> Result<Option<Entry>, sqlx::Error> {
        rows::read(self.pool().await?, key).await
    }

    /// Counts a failure, and logs the first one only: a full disk fails every operation.
    fn record_failure(&self, error: &sqlx::Error) {
        if self.counters.errors.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                file = %self.file.display(),
                %error,
                "failed to use the cache file; further failures are counted but not logged"
            );
        }
    }
}

/// Returns true if the file is not a database, or is a corrupt one.
fn is_damaged(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // SQLITE_CORRUPT and SQLITE_NOTADB.
    code.is_some_and(|code| ["11", "26"].contains(&&*code))
}
