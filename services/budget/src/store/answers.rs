//! Cache of model answers, so that one prompt is not paid for twice.
//!
//! Entries expire, and their number is limited; expired and surplus ones are removed by
//! [`AnswerCache::sweep`]. Failures are never cached: only answers can be stored.

use std::time::Duration;

use jiff::Timestamp;
use phase6_chassis::{
    identity::Name,
    store::{Row, Store, StoreError, sql},
};

use crate::model::{CacheKey, CachedAnswer};

/// Maximum number of entries. Those that expire first are removed first.
const MAX_ENTRIES: i64 = 10_000;

/// Cache of model answers, shared by all replicas.
#[derive(Clone)]
pub struct AnswerCache {
    store: Store,
}

impl AnswerCache {
    /// Creates a cache over `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns the cached answer for `key`, unless it has expired.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn get(&self, key: &CacheKey, now: Timestamp) -> Result<Option<CachedAnswer>, StoreError> {
        let row = sql("SELECT provider, model, answer FROM budget_answers WHERE id = $1 AND expires_ms > $2")
            .bind(key.as_str().to_owned())
            .bind(now.as_millisecond())
            .first(&self.store)
            .await?;
        Ok(row.map(|row| CachedAnswer {
            provider: row.get("provider"),
            model: row.get("model"),
            text: row.get("answer"),
        }))
    }

    /// Stores an answer of a tenant for `ttl`.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn put(
        &self,
        tenant: &Name,
        key: &CacheKey,
        answer: CachedAnswer,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sql("INSERT INTO budget_answers (id, provider, model, answer, expires_ms, tenant)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO UPDATE SET provider = $2, model = $3, answer = $4, expires_ms = $5")
        .bind(key.as_str().to_owned())
        .bind(answer.provider)
        .bind(answer.model)
        .bind(answer.text)
        .bind(now.as_millisecond() + ttl.as_millis() as i64)
        .bind(tenant.to_string())
        .run(&self.store)
        .await
        .map(drop)
    }

    /// Removes entries that have expired, then those beyond the maximum number.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        sql("DELETE FROM budget_answers WHERE expires_ms <= $1")
            .bind(now.as_millisecond())
            .run(&self.store)
            .await?;
        sql("DELETE FROM budget_answers WHERE id IN
             (SELECT id FROM budget_answers ORDER BY expires_ms DESC LIMIT 1000000 OFFSET $1)")
        .bind(MAX_ENTRIES)
        .run(&self.store)
        .await
        .map(drop)
    }
}
