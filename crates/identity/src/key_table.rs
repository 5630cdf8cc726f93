//! API keys in the database: created and revoked by any replica, and followed by all.
//!
//! Guarantees that a change and the next version of the table are written together, so that a replica which
//! has read a version has read all changes up to it. Revoked keys remain as rows: a fleet that has had a key
//! never opens again.

use jiff::Timestamp;
use phase6_store::{AnyRow, Migration, Row, Store, StoreError, sql};

use crate::{Digest, KeyId, KeySource, ListedKey, Name, Principal};

/// Schema of the keys, oldest step first.
pub(crate) const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "api_keys",
    sql: "CREATE TABLE phase6_api_keys (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        role TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        created_ms BIGINT NOT NULL,
        revoked_ms BIGINT
    );
    CREATE TABLE phase6_api_keys_version (id BIGINT PRIMARY KEY, version BIGINT NOT NULL);
    INSERT INTO phase6_api_keys_version (id, version) VALUES (1, 0);",
}];

/// The keys in a database.
#[derive(Clone)]
pub(crate) struct KeyTable(pub(crate) Store);

impl KeyTable {
    /// Returns the number of changes so far.
    pub(crate) async fn version(&self) -> Result<i64, StoreError> {
        let row = sql("SELECT version FROM phase6_api_keys_version WHERE id = 1").first(&self.0).await?;
        Ok(row.map_or(0, |row| row.get("version")))
    }

    /// Returns the keys that are not revoked.
    pub(crate) async fn read(&self) -> Result<Vec<(Digest, ListedKey)>, StoreError> {
        let rows = sql("SELECT id, tenant, subject, role, sha256, created_ms FROM phase6_api_keys
             WHERE revoked_ms IS NULL")
        .all(&self.0)
        .await?;
        // A newer version of the program may have written a role that this one does not know.
        Ok(rows.iter().filter_map(read_key).collect())
    }

    /// Adds a key, unless the table has `max` keys that are not revoked. Returns false in that case.
    pub(crate) async fn insert(&self, digest: Digest, key: &ListedKey, max: i64) -> Result<bool, StoreError> {
        let mut tx = self.0.begin().await?;
        // Locks the row, so that concurrent changes count one after the other.
        sql("UPDATE phase6_api_keys_version SET version = version + 1 WHERE id = 1").run_in(&mut tx).await?;
        let row = sql("SELECT COUNT(*) AS keys FROM phase6_api_keys WHERE revoked_ms IS NULL")
            .first_in(&mut tx)
            .await?;
        if row.is_some_and(|row| row.get::<i64, _>("keys") >= max) {
            return Ok(false);
        }
        let Principal { tenant, subject, role } = &key.principal;
        sql("INSERT INTO phase6_api_keys (id, tenant, subject, role, sha256, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(key.id.to_string())
        .bind(tenant.to_string())
        .bind(subject.to_string())
        .bind(role.as_str())
        .bind(digest.to_string())
        .bind(key.created.map_or(0, Timestamp::as_millisecond))
        .run_in(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Revokes a key, of `tenant` or of any. Returns false if there is none.
    pub(crate) async fn revoke(
        &self,
        id: &KeyId,
        tenant: Option<&Name>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.0.begin().await?;
        sql("UPDATE phase6_api_keys_version SET version = version + 1 WHERE id = 1").run_in(&mut tx).await?;
        let revoked = sql("UPDATE phase6_api_keys SET revoked_ms = $1
             WHERE id = $2 AND revoked_ms IS NULL AND (tenant = $3 OR $3 = '')")
        .bind(now.as_millisecond())
        .bind(id.to_string())
        .bind(tenant.map(ToString::to_string).unwrap_or_default())
        .run_in(&mut tx)
        .await?;
        if revoked == 0 {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }
}

fn read_key(row: &AnyRow) -> Option<(Digest, ListedKey)> {
    let text = |column: &str| row.get::<String, _>(column);
    let key = ListedKey {
        id: KeyId::from(text("id")),
        principal: Principal {
            tenant: text("tenant").parse().ok()?,
            subject: text("subject").parse().ok()?,
            role: text("role").parse().ok()?,
        },
        created: Timestamp::from_millisecond(row.get("created_ms")).ok(),
        source: KeySource::Database,
    };
    Some((text("sha256").parse().ok()?, key))
}
