//! The provider policy in the database, shared by all replicas.
//!
//! Guarantees that concurrent changes by several replicas are applied one after the other, so none
//! is lost. The copy in memory is left to `app`.

use phase6_chassis::store::{ExpectedVersion, SettingsTable, Store, StoreError, VersionMismatch, Versioned};
use serde::{Deserialize, Serialize};

use crate::model::{Criticality, PolicyChange, ProviderPolicy, policy::MIN_CONCURRENCY};

const TABLE: SettingsTable = SettingsTable("budget_settings");
/// Name of the policy in the table.
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

    /// Returns the policy, or `None` if nobody has changed it yet or a newer version of the service has written a
    /// value that this one cannot read.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn load(&self) -> Result<Option<Versioned<ProviderPolicy>>, StoreError> {
        let stored = TABLE.load(&self.store, NAME).await?;
        Ok(stored.and_then(|stored| Some(Versioned { version: stored.version, value: read(&stored.value)? })))
    }

    /// Changes the policy for all replicas and returns the new one. The change is applied to
    /// `fallback` if [`PolicyStore::load`] has nothing.
    ///
    /// # Errors
    ///
    /// The policy has another version than `expected`, or the database cannot be written.
    pub async fn change(
        &self,
        change: PolicyChange,
        fallback: ProviderPolicy,
        expected: &ExpectedVersion,
    ) -> Result<Versioned<ProviderPolicy>, ChangePolicyError> {
        let mut tx = self.store.begin().await?;
        let locked = TABLE.lock(&mut tx, NAME, write(fallback)).await?;
        locked.check(expected)?;
        let value = change.apply_to(read(&locked.value).unwrap_or(fallback));
        let version = TABLE.write(&mut tx, NAME, locked.version, write(value)).await?;
        tx.commit().await?;
        Ok(Versioned { version, value })
    }
}

/// Reason why the policy was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangePolicyError {
    /// Another version than the change follows is current.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn read(text: &str) -> Option<ProviderPolicy> {
    let stored: StoredPolicy = serde_json::from_str(text).ok()?;
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
