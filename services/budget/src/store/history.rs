//! Reports on recorded calls: the most recent ones, and the performance of providers.
//!
//! Reads only; [`Ledger`](super::Ledger) records calls and deletes old ones.

use phase6_chassis::{
    identity::Name,
    store::{AnyRow, Row, Store, StoreError, sql},
};

use crate::model::{
    MicroDollars,
    spending::{CallPosition, CallRecord, ProviderQuality},
};

/// Reports on the calls of all replicas.
#[derive(Clone)]
pub struct CallHistory {
    store: Store,
}

impl CallHistory {
    /// Creates reports over `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns up to `limit` calls of a tenant that are older than the call `after`, newest first.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn recent(
        &self,
        tenant: &Name,
        after: Option<CallPosition>,
        limit: usize,
    ) -> Result<Vec<CallRecord>, StoreError> {
        // Later than every call.
        let CallPosition { at_ms, id } = after.unwrap_or(CallPosition { at_ms: i64::MAX, id: String::new() });
        let rows = sql("SELECT id, provider, model, cost_micros, estimated, at_ms, outcome, latency_ms
             FROM budget_calls WHERE tenant = $1 AND (at_ms, id) < ($2, $3)
             ORDER BY at_ms DESC, id DESC LIMIT $4")
        .bind(tenant.to_string())
        .bind(at_ms)
        .bind(id)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .all(&self.store)
        .await?;
        let call = |row: &AnyRow| CallRecord {
            id: row.get("id"),
            provider: row.get("provider"),
            model: row.get("model"),
            cost: MicroDollars::new(row.get("cost_micros")),
            estimated: row.get::<i64, _>("estimated") != 0,
            at_ms: row.get("at_ms"),
            outcome: row.get("outcome"),
            latency_ms: row.get("latency_ms"),
        };
        Ok(rows.iter().map(call).collect())
    }

    /// Returns the performance of providers at each kind of task, over all recorded calls of a
    /// tenant. Calls whose outcome is not known do not count.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn quality(&self, tenant: &Name) -> Result<Vec<ProviderQuality>, StoreError> {
        let rows = sql("SELECT provider, task, COUNT(*) AS calls,
                CAST(SUM(CASE WHEN outcome = 'success' THEN 1 ELSE 0 END) AS BIGINT) AS successes,
                CAST(SUM(CASE WHEN outcome = 'success' THEN latency_ms ELSE 0 END) AS BIGINT) AS latency_ms,
                CAST(SUM(cost_micros) AS BIGINT) AS cost_micros
             FROM budget_calls WHERE tenant = $1 AND outcome <> 'lost'
             GROUP BY provider, task ORDER BY provider, task")
        .bind(tenant.to_string())
        .all(&self.store)
        .await?;
        let quality = |row: &AnyRow| {
            let calls: i64 = row.get("calls");
            let successes: i64 = row.get("successes");
            let latency_ms: i64 = row.get("latency_ms");
            let cost_micros: i64 = row.get("cost_micros");
            ProviderQuality {
                provider: row.get("provider"),
                task: row.get("task"),
                calls,
                success_rate: successes as f64 / calls.max(1) as f64,
                mean_latency_ms: latency_ms as f64 / successes.max(1) as f64,
                mean_cost_dollars: cost_micros as f64 / 1e6 / calls.max(1) as f64,
            }
        };
        Ok(rows.iter().map(quality).collect())
    }
}
