//! The lease of a singleton: one row that names the holder, and a number that rises with every holder.
//!
//! The clock of the database decides whether a lease has expired, so the clocks of replicas need not agree. No
//! clock decides whether a write is accepted: a transaction compares the epoch and locks the row.

use std::{sync::Arc, time::Duration};

use phase6_store::{Migration, Row, Store, StoreError, Tx, sql};

/// Schema of the leases, oldest step first.
pub const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "leases",
    // Services that share a database also share the table.
    sql: "CREATE TABLE IF NOT EXISTS phase6_leases (
        name TEXT PRIMARY KEY,
        holder TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        expires_ms BIGINT NOT NULL
    );",
}];

/// Number of a term of a lease: 1 for its first holder, higher by one for each following one.
pub type Epoch = i64;

/// A lease by name, as one replica sees it. Clones are the same replica.
#[derive(Clone)]
pub struct Lease {
    store: Store,
    name: Arc<str>,
    holder: Arc<str>,
    lifetime: Duration,
}

/// Another replica holds the lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another replica holds the lease")]
pub struct LeaseLost;

impl Lease {
    /// Names a lease in `store`, for a replica with the unique name `holder`. A term ends `lifetime` after its
    /// last renewal. [`MIGRATIONS`] must have been applied.
    pub fn new(store: Store, name: &str, holder: &str, lifetime: Duration) -> Self {
        Self { store, name: name.into(), holder: holder.into(), lifetime }
    }

    /// Begins a term if no other one is current.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn try_acquire(&self) -> Result<Option<Epoch>, StoreError> {
        let now = self.store.now_ms_sql();
        let rows = sql(format!(
            "INSERT INTO phase6_leases (name, holder, epoch, expires_ms) VALUES ($1, $2, 1, {now} + $3)
             ON CONFLICT (name) DO UPDATE
             SET holder = excluded.holder, epoch = phase6_leases.epoch + 1, expires_ms = excluded.expires_ms
             WHERE phase6_leases.expires_ms <= {now}
             RETURNING epoch"
        ))
        .bind(self.name.to_string())
        .bind(self.holder.to_string())
        .bind(self.lifetime_ms())
        .returning(&self.store)
        .await?;
        Ok(rows.first().map(|row| row.get("epoch")))
    }

    /// Extends a term. Returns false if it has ended, because another one has begun.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn renew(&self, epoch: Epoch) -> Result<bool, StoreError> {
        self.set_expiry(epoch, self.lifetime_ms()).await
    }

    /// Ends a term, so that another replica can begin one at once.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn release(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.set_expiry(epoch, 0).await.map(drop)
    }

    async fn set_expiry(&self, epoch: Epoch, from_now_ms: i64) -> Result<bool, StoreError> {
        let now = self.store.now_ms_sql();
        let updated =
            sql(format!("UPDATE phase6_leases SET expires_ms = {now} + $3 WHERE name = $1 AND epoch = $2"))
                .bind(self.name.to_string())
                .bind(epoch)
                .bind(from_now_ms)
                .run(&self.store)
                .await?;
        Ok(updated == 1)
    }

    /// Locks the lease until the end of the transaction, so that no other term can begin before. Returns false
    /// if another one has begun: the transaction must be rolled back.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn guard(&self, epoch: Epoch, tx: &mut Tx) -> Result<bool, StoreError> {
        // An update, because SQLite has no `SELECT ... FOR UPDATE`.
        let updated = sql("UPDATE phase6_leases SET epoch = epoch WHERE name = $1 AND epoch = $2")
            .bind(self.name.to_string())
            .bind(epoch)
            .run_in(tx)
            .await?;
        Ok(updated == 1)
    }

    fn lifetime_ms(&self) -> i64 {
        i64::try_from(self.lifetime.as_millis()).unwrap_or(i64::MAX / 2)
    }
}
