//! A second level in a SQLite file: a laptop keeps its cache over restarts.
//!
//! All changes go through one task and one queue, in order, several to a transaction. What cannot
//! be queued is dropped if it is an answer; if it is an invalidation, the whole level is emptied
//! instead: too little is kept rather than too much. For the same reason a file that was not closed,
//! because the program was killed, is emptied: an invalidation may not have reached it. A damaged one
//! is begun anew.

mod rows;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use sqlx::{
    Row, SqlitePool,
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
    },
};
use tokio::sync::{OnceCell, mpsc, oneshot};

use self::rows::{SCHEMA, put, remove};
use crate::{
    Entry, Invalidation, Key, Level, LevelStats, Ticket,
    level::{Asked, Found, LevelCounts},
};

const QUEUE: usize = 1024;
/// Changes in one transaction, at most.
const BATCH: usize = 64;
const READ_LIMIT: Duration = Duration::from_millis(250);
/// Kept on disk at most this long, whatever a policy says later.
const LONGEST_LIFE_MS: u64 = 48 * 3_600_000;

/// A cache level in a file. Opened when it is first used.
pub struct Disk {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Change>,
}

struct Shared {
    file: PathBuf,
    max_bytes: u64,
    pool: OnceCell<SqlitePool>,
    /// Number of invalidations that have been carried out.
    carried_out: AtomicU64,
    /// An invalidation found no place in the queue: empty the level.
    wipe: AtomicBool,
    wiped_up_to: AtomicU64,
    counts: LevelCounts,
    entries: AtomicU64,
    bytes: AtomicU64,
}

enum Change {
    Put(Arc<Entry>),
    Remove(Invalidation, u64),
    /// Nothing follows for now; tell when all is done.
    Close(oneshot::Sender<()>),
}

impl Disk {
    /// A level in `file`, of at most about `max_bytes`. Needs a running tokio runtime; its task
    /// ends when the level is dropped.
    pub fn new(file: impl AsRef<Path>, max_bytes: u64) -> Self {
        let (queue, changes) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            file: file.as_ref().to_owned(),
            max_bytes,
            pool: OnceCell::new(),
            carried_out: AtomicU64::new(0),
            wipe: AtomicBool::new(false),
            wiped_up_to: AtomicU64::new(0),
            counts: LevelCounts::default(),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        tokio::spawn(Arc::clone(&shared).carry_out(changes));
        Self { shared, queue }
    }
}

impl Level for Disk {
    fn get<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Found> {
        Box::pin(async move {
            let shared = &self.shared;
            // Before the read: what is carried out meanwhile is judged again by the caller.
            let carried_out = shared.carried_out.load(Ordering::Acquire);
            let found = tokio::time::timeout(READ_LIMIT, shared.read(asked.key)).await;
            let found = match found {
                Ok(Ok(found)) => {
                    found.filter(|entry| entry.answers(&asked.key.tenant, &asked.key.uri, asked.headers))
                }
                Ok(Err(error)) => {
                    shared.failed(&error);
                    None
                }
                Err(_) => None,
            };
            let counter = if found.is_some() { &shared.counts.hits } else { &shared.counts.misses };
            counter.fetch_add(1, Ordering::Relaxed);
            Found { answer: found.map(|entry| (entry, carried_out)), ticket: None }
        })
    }

    fn put(&self, entry: Arc<Entry>, _: Duration, _: u64, _: Duration, _: Ticket) {
        if self.queue.try_send(Change::Put(entry)).is_err() {
            self.shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn remove(&self, invalidation: Invalidation, number: u64) {
        if self.queue.try_send(Change::Remove(invalidation, number)).is_err() {
            self.shared.wiped_up_to.fetch_max(number + 1, Ordering::Release);
            self.shared.wipe.store(true, Ordering::Release);
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let (tell, told) = oneshot::channel();
            if self.queue.send(Change::Close(tell)).await.is_ok() {
                let _ = told.await;
            }
        })
    }

    fn stats(&self) -> LevelStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.shared;
        LevelStats {
            entries: get(&shared.entries),
            bytes: get(&shared.bytes),
            is_shared: false,
            in_touch: true,
            ..shared.counts.stats()
        }
    }
}

impl Shared {
    async fn pool(&self) -> Result<&SqlitePool, sqlx::Error> {
        self.pool
            .get_or_try_init(|| async {
                match self.open().await {
                    Ok(pool) => Ok(pool),
                    Err(error) if is_damaged(&error) => {
                        // A cache may always begin anew.
                        tracing::warn!(file = %self.file.display(), %error, "cache file is begun anew");
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
        // The number that the file carries says whether it is in use.
        let in_use: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&pool).await?;
        if in_use != 0 {
            sqlx::raw_sql("DELETE FROM entries; DELETE FROM tags").execute(&pool).await?;
        }
        sqlx::raw_sql("PRAGMA user_version = 1").execute(&pool).await?;
        self.measure(&pool).await?;
        Ok(pool)
    }

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

    async fn carry_out(self: Arc<Self>, mut changes: mpsc::Receiver<Change>) {
        let mut batch = Vec::with_capacity(BATCH);
        while changes.recv_many(&mut batch, BATCH).await > 0 {
            let wiped = self.wipe.swap(false, Ordering::AcqRel);
            let upto = wiped.then(|| self.wiped_up_to.load(Ordering::Acquire));
            if wiped {
                // What waits in the queue may be older than the invalidation that found no place.
                while let Ok(change) = changes.try_recv() {
                    batch.push(change);
                }
                let waiting = batch.len();
                batch.retain(|change| !matches!(change, Change::Put(_)));
                self.counts.dropped.fetch_add((waiting - batch.len()) as u64, Ordering::Relaxed);
            }
            if let Err(error) = self.apply(&batch, wiped).await {
                self.failed(&error);
                self.counts.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                // An invalidation must not be lost: try again with everything.
                if batch.iter().any(|change| matches!(change, Change::Remove(..))) || wiped {
                    self.wipe.store(true, Ordering::Release);
                    batch.clear();
                    continue;
                }
            }
            let newest = batch.iter().filter_map(|change| match change {
                Change::Remove(_, number) => Some(number + 1),
                Change::Put(_) | Change::Close(_) => None,
            });
            if let Some(newest) = newest.chain(upto).max() {
                self.carried_out.fetch_max(newest, Ordering::Release);
            }
            for change in batch.drain(..) {
                if let Change::Close(tell) = change {
                    let _ = tell.send(());
                }
            }
        }
    }

    async fn apply(&self, batch: &[Change], wipe: bool) -> Result<(), sqlx::Error> {
        let pool = self.pool().await?;
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        if wipe {
            sqlx::raw_sql("DELETE FROM entries; DELETE FROM tags").execute(&mut *tx).await?;
        }
        let mut written = 0;
        for change in batch {
            match change {
                Change::Put(entry) => {
                    put(&mut tx, entry).await?;
                    written += 1;
                }
                Change::Remove(invalidation, _) => remove(&mut tx, invalidation).await?,
                Change::Close(_) => {}
            }
        }
        let closing = matches!(batch.last(), Some(Change::Close(_)));
        let in_use = if closing { "PRAGMA user_version = 0" } else { "PRAGMA user_version = 1" };
        sqlx::raw_sql(in_use).execute(&mut *tx).await?;
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let oldest = (now_ms as u64).saturating_sub(LONGEST_LIFE_MS);
        sqlx::query("DELETE FROM entries WHERE stored_at_ms < ?1")
            .bind(oldest as i64)
            .execute(&mut *tx)
            .await?;
        if self.bytes.load(Ordering::Relaxed) > self.max_bytes {
            // A tenth at a time, oldest first.
            sqlx::query(
                "DELETE FROM entries WHERE stored_at_ms <= (SELECT stored_at_ms FROM entries
                 ORDER BY stored_at_ms LIMIT 1 OFFSET (SELECT COUNT(*) / 10 FROM entries))",
            )
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "DELETE FROM tags WHERE NOT EXISTS
             (SELECT 1 FROM entries e WHERE e.tenant = tags.tenant AND e.uri = tags.uri)",
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.counts.writes.fetch_add(written, Ordering::Relaxed);
        self.measure(pool).await
    }

    fn failed(&self, error: &sqlx::Error) {
        if self.counts.errors.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(file = %self.file.display(), %error, "cache file cannot be used; told once");
        }
    }
}

/// Whether the file is no database, or not a whole one.
fn is_damaged(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // SQLITE_CORRUPT and SQLITE_NOTADB.
    code.is_some_and(|code| ["11", "26"].contains(&&*code))
}
