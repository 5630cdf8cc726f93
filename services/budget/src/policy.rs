//! How calls are made: how many at a time, and how much quality counts. Shared by all replicas
//! through the records.

use std::sync::Arc;

use parking_lot::Mutex;
use phase6_chassis::{
    ApiError,
    store::{Row, Store, StoreError, sql},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{gate::Gate, routing::Criticality};

const NAME: &str = "provider-policy";

/// The policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderPolicy {
    /// Most calls of one replica at a time, from 1 to 12.
    pub max_concurrency: u32,
    /// Fewest; always 1.
    pub min_concurrency: u32,
    /// How much quality counts when a request does not say.
    pub criticality: Criticality,
}

/// A change of the policy; what is left out stays.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyChange {
    /// From 1 to 12.
    pub max_concurrency: Option<u32>,
    /// `low`, `normal`, `high` or `critical`.
    pub criticality: Option<Criticality>,
}

/// Holds the policy and opens the gate accordingly.
#[derive(Clone)]
pub struct Policies {
    store: Store,
    gate: Gate,
    known: Arc<Mutex<ProviderPolicy>>,
}

impl Policies {
    /// The policy in `store`, or `initial` as long as nobody has changed it.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn new(store: Store, gate: Gate, initial: ProviderPolicy) -> Result<Self, StoreError> {
        let policies = Self { store, gate, known: Arc::new(Mutex::new(initial)) };
        policies.refresh().await?;
        Ok(policies)
    }

    /// The policy as it was last seen.
    pub fn get(&self) -> ProviderPolicy {
        *self.known.lock()
    }

    /// Reads the policy that another replica may have changed.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let row =
            sql("SELECT value FROM budget_settings WHERE name = $1").bind(NAME).first(&self.store).await?;
        // A value that a newer version wrote and this one cannot read changes nothing.
        if let Some(policy) = row.and_then(|row| serde_json::from_str(&row.get::<String, _>(0)).ok()) {
            *self.known.lock() = policy;
        }
        self.gate.set_limit(self.get().max_concurrency as usize);
        Ok(())
    }

    /// Changes the policy for all replicas.
    ///
    /// # Errors
    ///
    /// A value is out of its range, or the records cannot be written.
    pub async fn change(&self, change: PolicyChange) -> Result<ProviderPolicy, ApiError> {
        if let Some(wanted) = change.max_concurrency.filter(|wanted| !(1..=12).contains(wanted)) {
            let message =
                format!("field `maxConcurrency` is {wanted}; accepted: a whole number from 1 to 12");
            return Err(ApiError::bad_request("invalid_body", message));
        }
        let text = |policy: &ProviderPolicy| {
            serde_json::to_string(policy).map_err(|error| ApiError::internal(&error))
        };
        let known = self.get();
        let mut tx = self.store.begin().await?;
        sql("INSERT INTO budget_settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(NAME)
            .bind(text(&known)?)
            .run_in(&mut tx)
            .await?;
        // Writing the value that is there holds its row: two changes at once come one after the other,
        // and the second sees the first.
        let row = sql("UPDATE budget_settings SET value = value WHERE name = $1 RETURNING value")
            .bind(NAME)
            .first_in(&mut tx)
            .await?;
        let stored = row.and_then(|row| serde_json::from_str(&row.get::<String, _>(0)).ok());
        let mut policy: ProviderPolicy = stored.unwrap_or(known);
        policy.max_concurrency = change.max_concurrency.unwrap_or(policy.max_concurrency);
        policy.criticality = change.criticality.unwrap_or(policy.criticality);
        sql("UPDATE budget_settings SET value = $2 WHERE name = $1")
            .bind(NAME)
            .bind(text(&policy)?)
            .run_in(&mut tx)
            .await?;
        tx.commit().await?;
        *self.known.lock() = policy;
        self.gate.set_limit(policy.max_concurrency as usize);
        Ok(policy)
    }
}
