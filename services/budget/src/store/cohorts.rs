//! Records of cohorts: workflows charged to them, and their totals.
//!
//! Guarantees that a workflow is charged once, however often it is reported. Concurrent reads of
//! single cohorts are batched into one statement.

use std::collections::HashMap;

use jiff::civil::Date;
use phase6_chassis::{
    Clock,
    store::{BatchLoader, Row, Store, StoreError, sql},
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

/// Totals of cohorts, by their identifiers.
type TotalsByCohort = HashMap<String, Vec<ProviderTotals>>;

/// Records of cohorts.
#[derive(Clone)]
pub struct CohortStore {
    store: Store,
    clock: Clock,
    totals: BatchLoader<String, Vec<ProviderTotals>>,
}

impl CohortStore {
    /// Creates the records of cohorts over `store`. `clock` decides which day and month it is.
    pub fn new(store: Store, clock: Clock) -> Self {
        let reading = (store.clone(), clock.clone());
        let totals = BatchLoader::new(BATCH_SIZE, move |cohorts: Vec<String>| {
            let (store, clock) = reading.clone();
            async move { read_totals(&store, cohorts, utc_day(clock.now())).await }
        });
        Self { store, clock, totals }
    }

    /// Charges a workflow to its cohort, once.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn record(&self, workflow: &Workflow) -> Result<RecordOutcome, StoreError> {
        let now = self.clock.now();
        let inserted =
            sql("INSERT INTO budget_workflows (cohort, workflow, provider, cost_micros, gain, at_ms, day)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING")
            .bind(workflow.cohort.as_str().to_owned())
            .bind(workflow.id.as_str().to_owned())
            .bind(workflow.provider.as_str())
            .bind(workflow.cost.get())
            .bind(workflow.capability_gain)
            .bind(now.as_millisecond())
            .bind(utc_day(now).to_string())
            .run(&self.store)
            .await?;
        if inserted == 1 {
            return Ok(RecordOutcome::Recorded);
        }
        let existing = sql(
            "SELECT provider, cost_micros, gain FROM budget_workflows WHERE cohort = $1 AND workflow = $2",
        )
        .bind(workflow.cohort.as_str().to_owned())
        .bind(workflow.id.as_str().to_owned())
        .first(&self.store)
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
    pub async fn metrics(&self, cohort: &CohortId) -> Result<CohortMetrics, StoreError> {
        let totals = self.totals.get(cohort.as_str().to_owned()).await?.unwrap_or_default();
        Ok(CohortMetrics::summarize(cohort.as_str(), &totals))
    }

    /// Returns the metrics of the 1000 cohorts that have spent most, in descending order.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn export(&self) -> Result<Vec<CohortMetrics>, StoreError> {
        let rows = sql("SELECT cohort FROM budget_workflows GROUP BY cohort
             ORDER BY SUM(CAST(cost_micros AS DOUBLE PRECISION)) DESC LIMIT $1")
        .bind(MAX_EXPORTED)
        .all(&self.store)
        .await?;
        let cohorts: Vec<String> = rows.iter().map(|row| row.get("cohort")).collect();
        let today = utc_day(self.clock.now());
        let mut metrics = Vec::with_capacity(cohorts.len());
        for batch in cohorts.chunks(BATCH_SIZE) {
            let totals = read_totals(&self.store, batch.to_vec(), today).await?;
            metrics.extend(batch.iter().map(|cohort| {
                CohortMetrics::summarize(cohort, totals.get(cohort).map_or(&[], Vec::as_slice))
            }));
        }
        Ok(metrics)
    }
}

async fn read_totals(store: &Store, cohorts: Vec<String>, today: Date) -> Result<TotalsByCohort, StoreError> {
    let placeholders: Vec<String> = (3..cohorts.len() + 3).map(|n| format!("${n}")).collect();
    // A sum of integers can overflow, and the statement would fail. Floats are exact up to nine
    // billion dollars, which is more than the largest amount.
    let mut statement = sql(format!(
        "SELECT cohort, provider, COUNT(*) AS workflows, SUM(gain) AS gain,
            SUM(CAST(cost_micros AS DOUBLE PRECISION)) AS spent,
            SUM(CAST(CASE WHEN day >= $1 THEN cost_micros ELSE 0 END AS DOUBLE PRECISION)) AS spent_this_month,
            SUM(CAST(CASE WHEN day = $2 THEN cost_micros ELSE 0 END AS DOUBLE PRECISION)) AS spent_today
         FROM budget_workflows WHERE cohort IN ({}) GROUP BY cohort, provider",
        placeholders.join(", ")
    ))
    .bind(today.first_of_month().to_string())
    .bind(today.to_string());
    for cohort in cohorts {
        statement = statement.bind(cohort);
    }
    let mut totals = TotalsByCohort::new();
    for row in statement.all(store).await? {
        let amount = |column: &str| MicroDollars::new(row.get::<f64, _>(column) as i64);
        totals.entry(row.get("cohort")).or_default().push(ProviderTotals {
            provider: row.get("provider"),
            workflows: row.get("workflows"),
            capability_gain: row.get("gain"),
            spent: amount("spent"),
            spent_this_month: amount("spent_this_month"),
            spent_today: amount("spent_today"),
        });
    }
    Ok(totals)
}
