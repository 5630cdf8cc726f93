//! A second level in a SQLite file: a laptop keeps its cache over restarts.
//!
//! All changes go through one task and one queue, in order, several to a transaction. What cannot
//! be queued is dropped if it is an answer; if it is an invalidation, the whole level is emptied
//! instead: too little is kept rather than too much. For the same reason a file that was not closed,
//! because the program was killed, is emptied: an invalidation may not have reached it. A damaged one
//! is begun anew.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use sqlx::{
    Row, SqlitePool,
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
    },
};
use tokio::sync::{OnceCell, mpsc, oneshot};

use crate::{Entry, Invalidation, Key, Level, LevelStats, rfc9111::Storable};

const QUEUE: usize = 1024;
/// Changes in one transaction, at most.
const BATCH: usize = 64;
const READ_LIMIT: Duration = Duration::from_millis(250);
/// Kept on disk at most this long, whatever a policy says later.
const LONGEST_LIFE_MS: u64 = 48 * 3_600_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entries (
        tenant TEXT NOT NULL, uri TEXT NOT NULL, path TEXT NOT NULL,
        stored_at_ms INTEGER NOT NULL, bytes INTEGER NOT NULL, meta TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (tenant, uri)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS entries_path ON entries (path);
    CREATE INDEX IF NOT EXISTS entries_age ON entries (stored_at_ms);
    CREATE TABLE IF NOT EXISTS tags (
        tag TEXT NOT NULL, tenant TEXT NOT NULL, uri TEXT NOT NULL, PRIMARY KEY (tag, tenant, uri)
    ) WITHOUT ROWID;
";

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
    hits: AtomicU64,
    misses: AtomicU64,
    writes: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
}

enum Change {
    Put(Arc<Entry>),
    Remove(Invalidation, u64),
    /// Nothing follows for now; tell when all is done.
    Close(oneshot::Sender<()>),
}

/// An entry without its key and body, as it is written.
#[derive(Serialize, Deserialize)]
struct Meta {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    lifetime_ms: Option<u64>,
    must_revalidate: bool,
    stale_while_revalidate_ms: Option<u64>,
    stale_if_error_ms: Option<u64>,
    age_ms: u64,
    jitter: f64,
    tags: Vec<Box<str>>,
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
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        tokio::spawn(Arc::clone(&shared).carry_out(changes));
        Self { shared, queue }
    }
}

impl Level for Disk {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<(Entry, u64)>> {
        Box::pin(async move {
            let shared = &self.shared;
            // Before the read: what is carried out meanwhile is judged again by the caller.
            let carried_out = shared.carried_out.load(Ordering::Acquire);
            let found = tokio::time::timeout(READ_LIMIT, shared.read(key)).await;
            let found = match found {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    shared.failed(&error);
                    None
                }
                Err(_) => None,
            };
            let counter = if found.is_some() { &shared.hits } else { &shared.misses };
            counter.fetch_add(1, Ordering::Relaxed);
            found.map(|entry| (entry, carried_out))
        })
    }

    fn put(&self, entry: Arc<Entry>) {
        if self.queue.try_send(Change::Put(entry)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
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
            hits: get(&shared.hits),
            misses: get(&shared.misses),
            writes: get(&shared.writes),
            dropped: get(&shared.dropped),
            errors: get(&shared.errors),
            entries: get(&shared.entries),
            bytes: get(&shared.bytes),
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
        let row = sqlx::query("SELECT stored_at_ms, meta, body FROM entries WHERE tenant = ?1 AND uri = ?2")
            .bind(&*key.tenant)
            .bind(&*key.uri)
            .fetch_optional(self.pool().await?)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let (stored_at_ms, meta, body): (i64, String, Vec<u8>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let meta = serde_json::from_str::<Meta>(&meta).ok();
        Ok(meta.and_then(|meta| meta.into_entry(key.clone(), stored_at_ms as u64, body.into())))
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
                self.dropped.fetch_add((waiting - batch.len()) as u64, Ordering::Relaxed);
            }
            if let Err(error) = self.apply(&batch, wiped).await {
                self.failed(&error);
                self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
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
        self.writes.fetch_add(written, Ordering::Relaxed);
        self.measure(pool).await
    }

    fn failed(&self, error: &sqlx::Error) {
        if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
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

type Transaction<'a> = sqlx::Transaction<'a, sqlx::Sqlite>;

async fn put(tx: &mut Transaction<'_>, entry: &Entry) -> Result<(), sqlx::Error> {
    let meta = serde_json::to_string(&Meta::of(entry)).expect("plain data");
    sqlx::query(
        "INSERT INTO entries (tenant, uri, path, stored_at_ms, bytes, meta, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (tenant, uri) DO UPDATE SET path = ?3, stored_at_ms = ?4, bytes = ?5, meta = ?6, body = ?7",
    )
    .bind(&*entry.key.tenant)
    .bind(&*entry.key.uri)
    .bind(entry.key.path())
    .bind(entry.stored_at_ms as i64)
    .bind(entry.size() as i64)
    .bind(meta)
    .bind(entry.body.as_ref())
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM tags WHERE tenant = ?1 AND uri = ?2")
        .bind(&*entry.key.tenant)
        .bind(&*entry.key.uri)
        .execute(&mut **tx)
        .await?;
    for tag in &entry.tags {
        sqlx::query("INSERT OR IGNORE INTO tags (tag, tenant, uri) VALUES (?1, ?2, ?3)")
            .bind(&**tag)
            .bind(&*entry.key.tenant)
            .bind(&*entry.key.uri)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

async fn remove(tx: &mut Transaction<'_>, invalidation: &Invalidation) -> Result<(), sqlx::Error> {
    let (sql, text) = match invalidation {
        Invalidation::All => ("DELETE FROM entries", None),
        Invalidation::Path(path) => ("DELETE FROM entries WHERE path = ?1", Some(path.as_str())),
        Invalidation::Tag(tag) => (
            "DELETE FROM entries WHERE EXISTS
             (SELECT 1 FROM tags t WHERE t.tag = ?1 AND t.tenant = entries.tenant AND t.uri = entries.uri)",
            Some(tag.as_str()),
        ),
        Invalidation::Prefix(prefix) => (
            // `0` is the character after `/`.
            "DELETE FROM entries WHERE path = ?1 OR (path >= ?1 || '/' AND path < ?1 || '0')",
            Some(prefix.trim_end_matches('/')),
        ),
    };
    let query = sqlx::query(sql);
    let query = if let Some(text) = text { query.bind(text) } else { query };
    query.execute(&mut **tx).await?;
    Ok(())
}

impl Meta {
    fn of(entry: &Entry) -> Self {
        let millis = |duration: Duration| duration.as_millis() as u64;
        Self {
            status: entry.status.as_u16(),
            headers: entry
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect(),
            lifetime_ms: entry.storable.lifetime.map(millis),
            must_revalidate: entry.storable.must_revalidate,
            stale_while_revalidate_ms: entry.storable.stale_while_revalidate.map(millis),
            stale_if_error_ms: entry.storable.stale_if_error.map(millis),
            age_ms: millis(entry.storable.age),
            jitter: entry.jitter,
            tags: entry.tags.clone(),
        }
    }

    fn into_entry(self, key: Key, stored_at_ms: u64, body: Bytes) -> Option<Entry> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        Some(Entry {
            key,
            vary: vec![],
            status: StatusCode::from_u16(self.status).ok()?,
            headers,
            body,
            storable: Storable {
                lifetime: self.lifetime_ms.map(Duration::from_millis),
                must_revalidate: self.must_revalidate,
                stale_while_revalidate: self.stale_while_revalidate_ms.map(Duration::from_millis),
                stale_if_error: self.stale_if_error_ms.map(Duration::from_millis),
                age: Duration::from_millis(self.age_ms),
                vary: vec![],
            },
            stored_at_ms,
            jitter: self.jitter,
            tags: self.tags,
            label: 0,
        })
    }
}
