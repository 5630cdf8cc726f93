//! Records of cohorts: workflows charged to them, and their totals.
//!
//! Guarantees that a workflow is charged once, however often it is reported. Concurrent reads of
//! single cohorts are batched into one statement.

use std::collections::HashMap;

use jiff::civil::Date;
use phase6_chassis::{
    Clock,
    identity::Name,
    store::{AnyRow, BatchLoader, Row, Statement, Store, StoreError, Tx, sql},
};

use crate::model::{
    MicroDollars,
    cohort::{CohortId, CohortMetrics, ProviderTotals},
    spending::utc_day,
    workflow::{RecordOutcome, Workflow},
};

/// Maximum number of cohorts in an export.
const MAX_EXPORTED: i64 = 1000;
/// Maximum number of cohorts that one statement reads.
const BATCH_SIZE: usize = 100;

/// Tenant and identifier of a cohort.
type CohortKey = (String, String);
/// Totals of cohorts.
type TotalsByCohort = HashMap<CohortKey, Vec<ProviderTotals>>;

/// Records of cohorts.
#[derive(Clone)]
pub struct CohortStore {
    store: Store,
    clock: Clock,
    totals: BatchLoader<CohortKey, Vec<ProviderTotals>>,
}

impl CohortStore {
    /// Creates the records of cohorts over `store`. `clock` decides which day and month it is.
    pub fn new(store: Store, clock: Clock) -> Self {
        let reading = (store.clone(), clock.clone());
        let totals = BatchLoader::new(BATCH_SIZE, move |cohorts: Vec<CohortKey>| {
            let (store, clock) = reading.clone();
            async move { read_totals(&store, cohorts, utc_day(clock.now())).await }
        });
        Self { store, clock, totals }
    }

    /// Charges a workflow to its cohort of `tenant`, once.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn record(
        &self,
        tx: &mut Tx,
        tenant: &Name,
        workflow: &Workflow,
    ) -> Result<RecordOutcome, StoreError> {
        let now = self.clock.now();
        let inserted = sql(
            "INSERT INTO budget_workflows (tenant, cohort, workflow, provider, cost_micros, gain, at_ms, day)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(tenant.to_string())
        .bind(workflow.cohort.as_str().to_owned())
        .bind(workflow.id.as_str().to_owned())
        .bind(workflow.provider.as_str())
        .bind(workflow.cost.get())
        .bind(workflow.capability_gain)
        .bind(now.as_millisecond())
        .bind(utc_day(now).to_string())
        .run_in(tx)
        .await?;
        if inserted == 1 {
            return Ok(RecordOutcome::Recorded);
        }
        let existing = sql("SELECT provider, cost_micros, gain FROM budget_workflows
             WHERE tenant = $1 AND cohort = $2 AND workflow = $3")
        .bind(tenant.to_string())
        .bind(workflow.cohort.as_str().to_owned())
        .bind(workflow.id.as_str().to_owned())
        .first_in(tx)
        .await?;
        let is_identical = existing.is_some_and(|row| {
            row.get::<String, _>("provider") == workflow.provider.as_str()
                && row.get::<i64, _>("cost_micros") == workflow.cost.get()
                && (row.get::<f64, _>("gain") - workflow.capability_gain).abs() < 1e-9
        });
        Ok(if is_identical { RecordOutcome::AlreadyRecorded } else { RecordOutcome::Conflict })
    }

    /// Returns the metrics of a cohort. A cohort without workflows has spent nothing.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn metrics(&self, tenant: &Name, cohort: &CohortId) -> Result<CohortMetrics, StoreError> {
        let key = (tenant.to_string(), cohort.as_str().to_owned());
        let totals = self.totals.get(key).await?.unwrap_or_default();
        Ok(CohortMetrics::summarize(cohort.as_str(), &totals))
    }

    /// Returns the metrics of a cohort as a transaction sees them.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn metrics_in(
        &self,
        tx: &mut Tx,
        tenant: &Name,
        cohort: &CohortId,
    ) -> Result<CohortMetrics, StoreError> {
        let key = (tenant.to_string(), cohort.as_str().to_owned());
        let statement = select_totals(vec![key.clone()], utc_day(self.clock.now()));
        let totals = totals_by_cohort(&statement.all_in(tx).await?);
        let totals = totals.get(&key).map_or(&[][..], Vec::as_slice);
        Ok(CohortMetrics::summarize(cohort.as_str(), totals))
    }

    /// Returns the metrics of the 1000 cohorts of a tenant that have spent most, in descending order.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn export(&self, tenant: &Name) -> Result<Vec<CohortMetrics>, StoreError> {
        let rows = sql("SELECT cohort FROM budget_workflows WHERE tenant = $1 GROUP BY cohort
             ORDER BY SUM(CAST(cost_micros AS DOUBLE PRECISION)) DESC LIMIT $2")
        .bind(tenant.to_string())
        .bind(MAX_EXPORTED)
        .all(&self.store)
        .await?;
        let cohorts: Vec<CohortKey> =
            rows.iter().map(|row| (tenant.to_string(), row.get("cohort"))).collect();
        let today = utc_day(self.clock.now());
        let mut metrics = Vec::with_capacity(cohorts.len());
        for batch in cohorts.chunks(BATCH_SIZE) {
            let totals = read_totals(&self.store, batch.to_vec(), today).await?;
            metrics.extend(batch.iter().map(|cohort| {
                CohortMetrics::summarize(&cohort.1, totals.get(cohort).map_or(&[], Vec::as_slice))
            }));
        }
        Ok(metrics)
    }
}

async fn read_totals(
    store: &Store,
    cohorts: Vec<CohortKey>,
    today: Date,
) -> Result<TotalsByCohort, StoreError> {
    Ok(totals_by_cohort(&select_totals(cohorts, today).all(store).await?))
}

/// Returns the statement that reads the totals of cohorts.
fn select_totals(cohorts: Vec<CohortKey>, today: Date) -> Statement {
    let placeholder = |index: usize| format!("(${}, ${})", 2 * index + 3, 2 * index + 4);
    let placeholders: Vec<String> = (0..cohorts.len()).map(placeholder).collect();
    // A sum of integers can overflow, and the statement would fail. Floats are exact up to nine
    // billion dollars, which is more than the largest amount.
    let mut statement = sql(format!(
        "SELECT tenant, cohort, provider, COUNT(*) AS workflows, SUM(gain) AS gain,
            SUM(CAST(cost_micros AS DOUBLE PRECISION)) AS spent,
            SUM(CAST(CASE WHEN day >= $1 THEN cost_micros ELSE 0 END AS DOUBLE PRECISION)) AS spent_this_month,
            SUM(CAST(CASE WHEN day = $2 THEN cost_micros ELSE 0 END AS DOUBLE PRECISION)) AS spent_today
         FROM budget_workflows WHERE (tenant, cohort) IN (VALUES {})
         GROUP BY tenant, cohort, provider",
        placeholders.join(", ")
    ))
    .bind(today.first_of_month().to_string())
    .bind(today.to_string());
    for (tenant, cohort) in cohorts {
        statement = statement.bind(tenant).bind(cohort);
    }
    statement
}

fn totals_by_cohort(rows: &[AnyRow]) -> TotalsByCohort {
    let mut totals = TotalsByCohort::new();
    for row in rows {
        let amount = |column: &str| MicroDollars::new(row.get::<f64, _>(column) as i64);
        totals.entry((row.get("tenant"), row.get("cohort"))).or_default().push(ProviderTotals {
            provider: row.get("provider"),
            workflows: row.get("workflows"),
            capability_gain: row.get("gain"),
            spent: amount("spent"),
            spent_this_month: amount("spent_this_month"),
            spent_today: amount("spent_today"),
        });
    }
    totals
}
