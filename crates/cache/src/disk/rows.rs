//! Tables of the cache file, and the statements that read and change them.

use sqlx::{Row, SqlitePool};

use crate::{Entry, Invalidation, Key, compression::compress, stored_meta::StoredMeta};

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
    let Ok(meta) = serde_json::from_str::<StoredMeta>(&meta) else { return Ok(None) };
    Ok(meta.into_entry(key.clone(), stored_at_ms as u64, body.into()).await)
}

pub(super) async fn store(tx: &mut Transaction<'_>, entry: &Entry) -> Result<(), sqlx::Error> {
    if entry.is_negative() {
        // Too short-lived to be stored, but it replaces the earlier response.
        sqlx::query("DELETE FROM entries WHERE tenant = ?1 AND uri = ?2")
            .bind(&*entry.key.tenant)
            .bind(&*entry.key.uri)
            .execute(&mut **tx)
            .await?;
        return Ok(());
    }
    let body = compress(entry).await;
    let meta = serde_json::to_string(&StoredMeta::new(entry, &body)).expect("plain data serializes");
    sqlx::query(
        "INSERT INTO entries (tenant, uri, path, stored_at_ms, bytes, meta, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (tenant, uri) DO UPDATE SET path = ?3, stored_at_ms = ?4, bytes = ?5, meta = ?6, body = ?7",
    )
    .bind(&*entry.key.tenant)
    .bind(&*entry.key.uri)
    .bind(entry.key.path())
    .bind(entry.fetch_started_at_ms as i64)
    .bind((entry.size() - entry.body.len() + body.bytes.len()) as i64)
    .bind(meta)
    .bind(body.bytes.as_ref())
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

pub(super) async fn invalidate(
    tx: &mut Transaction<'_>,
    invalidation: &Invalidation,
) -> Result<(), sqlx::Error> {
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
