//! The provider policy in the database, shared by all replicas.
//!
//! Guarantees that concurrent changes by several replicas are applied one after the other, so none
//! is lost. The copy in memory is left to `app`.

use phase6_chassis::store::{AnyRow, Row, Store, StoreError, sql};
use serde::{Deserialize, Serialize};

use crate::model::{Criticality, PolicyChange, ProviderPolicy, policy::MIN_CONCURRENCY};

/// Name of the policy in `budget_settings`.
const NAME: &str = "provider-policy";

/// Provider policy of all replicas.
#[derive(Clone)]
pub struct PolicyStore {
    store: Store,
}

/// Policy as it is stored, in JSON. Independent of the wire format of requests and responses, which
/// may change without a migration.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredPolicy {
    max_concurrency: u32,
    /// Constant; replicas of earlier versions expect it.
    min_concurrency: u32,
    criticality: StoredCriticality,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredCriticality {
    Low,
    Normal,
    High,
    Critical,
}

impl PolicyStore {
    /// Creates the policy over `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns the policy, or `None` if nobody has changed it yet or a newer version has written a
    /// value that this one cannot read.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn load(&self) -> Result<Option<ProviderPolicy>, StoreError> {
        let row =
            sql("SELECT value FROM budget_settings WHERE name = $1").bind(NAME).first(&self.store).await?;
        Ok(row.and_then(|row| read(&row)))
    }

    /// Changes the policy for all replicas and returns the new one. The change is applied to
    /// `fallback` if [`PolicyStore::load`] has nothing.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn change(
        &self,
        change: PolicyChange,
        fallback: ProviderPolicy,
    ) -> Result<ProviderPolicy, StoreError> {
        let mut tx = self.store.begin().await?;
        sql("INSERT INTO budget_settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(NAME)
            .bind(write(fallback))
            .run_in(&mut tx)
            .await?;
        // Updating the row to its own value locks it: of two concurrent changes, the second one
        // reads what the first one has written.
        let row = sql("UPDATE budget_settings SET value = value WHERE name = $1 RETURNING value")
            .bind(NAME)
            .first_in(&mut tx)
            .await?;
        let policy = change.apply_to(row.and_then(|row| read(&row)).unwrap_or(fallback));
        sql("UPDATE budget_settings SET value = $2 WHERE name = $1")
            .bind(NAME)
            .bind(write(policy))
            .run_in(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(policy)
    }
}

fn read(row: &AnyRow) -> Option<ProviderPolicy> {
    let stored: StoredPolicy = serde_json::from_str(&row.get::<String, _>("value")).ok()?;
    let criticality = match stored.criticality {
        StoredCriticality::Low => Criticality::Low,
        StoredCriticality::Normal => Criticality::Normal,
        StoredCriticality::High => Criticality::High,
        StoredCriticality::Critical => Criticality::Critical,
    };
    Some(ProviderPolicy { max_concurrency: stored.max_concurrency, criticality })
}

fn write(policy: ProviderPolicy) -> String {
    let criticality = match policy.criticality {
        Criticality::Low => StoredCriticality::Low,
        Criticality::Normal => StoredCriticality::Normal,
        Criticality::High => StoredCriticality::High,
        Criticality::Critical => StoredCriticality::Critical,
    };
    let stored = StoredPolicy {
        max_concurrency: policy.max_concurrency,
        min_concurrency: MIN_CONCURRENCY,
        criticality,
    };
    serde_json::to_string(&stored).expect("numbers and names are valid JSON")
}
