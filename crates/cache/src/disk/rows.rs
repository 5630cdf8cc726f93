//! Entries as rows: the tables, and what is done to them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use sqlx::{Row, SqlitePool};

use crate::{Entry, Invalidation, Key, rfc9111::Storable};

pub(super) const SCHEMA: &str = "
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

pub(super) type Transaction<'a> = sqlx::Transaction<'a, sqlx::Sqlite>;

pub(super) async fn read(pool: &SqlitePool, key: &Key) -> Result<Option<Entry>, sqlx::Error> {
    let row = sqlx::query("SELECT stored_at_ms, meta, body FROM entries WHERE tenant = ?1 AND uri = ?2")
        .bind(&*key.tenant)
        .bind(&*key.uri)
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (stored_at_ms, meta, body): (i64, String, Vec<u8>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let meta = serde_json::from_str::<Meta>(&meta).ok();
    Ok(meta.and_then(|meta| meta.into_entry(key.clone(), stored_at_ms as u64, body.into())))
}

pub(super) async fn put(tx: &mut Transaction<'_>, entry: &Entry) -> Result<(), sqlx::Error> {
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

pub(super) async fn remove(tx: &mut Transaction<'_>, invalidation: &Invalidation) -> Result<(), sqlx::Error> {
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
