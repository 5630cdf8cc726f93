//! Costs of groups of users, and what they got for them.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use phase6_chassis::store::{BatchLoader, Row, Store, StoreError, sql};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{ledger::utc_day, money::Micros, provider::ProviderId};

/// What every cohort may spend in a calendar month, and in a day.
pub const MONTHLY: Micros = Micros::new(10_000_000_000);
/// See [`MONTHLY`].
pub const DAILY: Micros = Micros::new(350_000_000);
/// What a capability is meant to cost.
pub const TARGET_PER_CAPABILITY: Micros = Micros::new(100_000_000);
/// What a capability cost before anything was tuned, in dollars: the yardstick of the efficiency
/// gain.
pub const BASELINE_PER_CAPABILITY: f64 = 200.0;
/// Most that one workflow can cost.
pub const MOST_PER_WORKFLOW: Micros = Micros::new(1_000_000_000_000);
/// Cohorts in an export.
const MOST_EXPORTED: i64 = 1000;

/// The records of cohorts.
#[derive(Clone)]
pub struct Cohorts {
    store: Store,
    totals: BatchLoader<String, Vec<Total>>,
}

/// One provider's part of a cohort.
#[derive(Clone, Debug)]
struct Total {
    provider: String,
    count: i64,
    spent: Micros,
    gain: f64,
    month: Micros,
    today: Micros,
}

/// A workflow to be booked.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// Whose cost it is.
    pub cohort: String,
    /// Its identity within the cohort.
    pub workflow: String,
    /// Who was paid.
    pub provider: ProviderId,
    /// What it cost.
    pub cost: Micros,
    /// What it brought, in capabilities.
    pub gain: f64,
}

/// What was done with a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was booked.
    Now,
    /// The very same one had been booked before.
    Before,
    /// Another one of the same identity had been booked before.
    Differs,
}

/// What is known of a cohort. Money in dollars.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CohortMetrics {
    /// The cohort.
    pub cohort_id: String,
    /// Spent since the beginning.
    #[schema(value_type = f64)]
    pub total_spent: Micros,
    /// Spent this calendar month (UTC).
    #[schema(value_type = f64)]
    pub spent_this_month: Micros,
    /// Spent today (UTC).
    #[schema(value_type = f64)]
    pub spent_today: Micros,
    /// What is left of the month's budget.
    #[schema(value_type = f64)]
    pub budget_remaining: Micros,
    /// Share of the month's budget that is spent, in percent.
    pub budget_utilization: f64,
    /// Capabilities that workflows brought.
    pub capabilities_activated: f64,
    /// Workflows booked.
    pub workflows_executed: i64,
    /// Spent per capability; none without capabilities.
    pub cost_per_capability: Option<f64>,
    /// Spent per workflow; none without workflows.
    pub avg_cost_per_workflow: Option<f64>,
    /// How many times cheaper a capability is than the yardstick; none without capabilities or
    /// costs.
    pub efficiency_gain: Option<f64>,
    /// Capabilities for a hundred dollars; none without capabilities or costs.
    pub efficiency: Option<f64>,
    /// Workflows and costs by provider.
    pub provider_distribution: BTreeMap<String, Share>,
    /// Providers that were paid.
    pub provider_count: usize,
}

/// One provider's part.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Share {
    /// Workflows.
    pub count: i64,
    /// Spent, in dollars.
    #[schema(value_type = f64)]
    pub spent: Micros,
}

/// What to do about a cohort's budget.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Suggestion {
    /// A word for programs.
    pub action: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Cohorts {
    /// The cohorts in `store`.
    pub fn new(store: Store) -> Self {
        let reading = store.clone();
        let totals = BatchLoader::new(100, move |cohorts: Vec<String>| read_totals(reading.clone(), cohorts));
        Self { store, totals }
    }

    /// Books a workflow, once.
    ///
    /// # Errors
    ///
    /// The records cannot be written.
    pub async fn record(&self, workflow: &Workflow, now: Timestamp) -> Result<Recorded, StoreError> {
        let booked =
            sql("INSERT INTO budget_workflows (cohort, workflow, provider, cost_micros, gain, at_ms, day)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING")
            .bind(workflow.cohort.clone())
            .bind(workflow.workflow.clone())
            .bind(workflow.provider.as_str())
            .bind(workflow.cost.get())
            .bind(workflow.gain)
            .bind(now.as_millisecond())
            .bind(utc_day(now).to_string())
            .run(&self.store)
            .await?;
        if booked == 1 {
            return Ok(Recorded::Now);
        }
        let row = sql(
            "SELECT provider, cost_micros, gain FROM budget_workflows WHERE cohort = $1 AND workflow = $2",
        )
        .bind(workflow.cohort.clone())
        .bind(workflow.workflow.clone())
        .first(&self.store)
        .await?;
        let same = row.is_some_and(|row| {
            row.get::<String, _>(0) == workflow.provider.as_str()
                && row.get::<i64, _>(1) == workflow.cost.get()
                && (row.get::<f64, _>(2) - workflow.gain).abs() < 1e-9
        });
        Ok(if same { Recorded::Before } else { Recorded::Differs })
    }

    /// What is known of a cohort. A cohort of which nothing is known has spent nothing.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn metrics(&self, cohort: &str) -> Result<CohortMetrics, StoreError> {
        let totals = self.totals.get(cohort.to_owned()).await?.unwrap_or_default();
        Ok(summarise(cohort, &totals))
    }

    /// What is known of every cohort, at most a thousand, the biggest spenders first.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn export(&self) -> Result<Vec<CohortMetrics>, StoreError> {
        let rows = sql("SELECT cohort FROM budget_workflows GROUP BY cohort
             ORDER BY SUM(CAST(cost_micros AS DOUBLE PRECISION)) DESC LIMIT $1")
        .bind(MOST_EXPORTED)
        .all(&self.store)
        .await?;
        let cohorts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let mut all = Vec::with_capacity(cohorts.len());
        for some in cohorts.chunks(100) {
            let totals = read_totals(self.store.clone(), some.to_vec()).await?;
            all.extend(
                some.iter().map(|cohort| summarise(cohort, totals.get(cohort).map_or(&[], Vec::as_slice))),
            );
        }
        Ok(all)
    }
}

async fn read_totals(store: Store, cohorts: Vec<String>) -> Result<HashMap<String, Vec<Total>>, StoreError> {
    let places: Vec<String> = (3..cohorts.len() + 3).map(|n| format!("${n}")).collect();
    let today = utc_day(Timestamp::now());
    // A sum of whole numbers can be too large for one, and the statement then fails. As floats they
    // are exact up to nine billion dollars, which is more than an amount can be.
    let mut statement = sql(format!(
        "SELECT cohort, provider, COUNT(*), SUM(CAST(cost_micros AS DOUBLE PRECISION)), SUM(gain),
            SUM(CAST(CASE WHEN day >= $1 THEN cost_micros ELSE 0 END AS DOUBLE PRECISION)),
            SUM(CAST(CASE WHEN day = $2 THEN cost_micros ELSE 0 END AS DOUBLE PRECISION))
         FROM budget_workflows WHERE cohort IN ({}) GROUP BY cohort, provider",
        places.join(", ")
    ))
    .bind(today.first_of_month().to_string())
    .bind(today.to_string());
    for cohort in cohorts {
        statement = statement.bind(cohort);
    }
    let amount = |micros: f64| Micros::new(micros as i64);
    let mut all: HashMap<String, Vec<Total>> = HashMap::new();
    for row in statement.all(&store).await? {
        all.entry(row.get(0)).or_default().push(Total {
            provider: row.get(1),
            count: row.get(2),
            spent: amount(row.get(3)),
            gain: row.get(4),
            month: amount(row.get(5)),
            today: amount(row.get(6)),
        });
    }
    Ok(all)
}

fn summarise(cohort: &str, totals: &[Total]) -> CohortMetrics {
    let sum = |amount: fn(&Total) -> Micros| totals.iter().map(amount).fold(Micros::ZERO, Micros::plus);
    let total_spent = sum(|total| total.spent);
    let spent_this_month = sum(|total| total.month);
    // The sum of nothing is a negative zero.
    let gain = totals.iter().map(|total| total.gain).sum::<f64>() + 0.0;
    let count: i64 = totals.iter().map(|total| total.count).sum();
    let cost_per_capability = (gain > 0.0).then(|| total_spent.dollars() / gain);
    let that_cost = cost_per_capability.filter(|cost| *cost > 0.0);
    let provider_distribution: BTreeMap<_, _> = totals
        .iter()
        .map(|total| (total.provider.clone(), Share { count: total.count, spent: total.spent }))
        .collect();
    CohortMetrics {
        cohort_id: cohort.to_owned(),
        total_spent,
        spent_this_month,
        spent_today: sum(|total| total.today),
        budget_remaining: MONTHLY.minus(spent_this_month),
        budget_utilization: spent_this_month.get() as f64 / MONTHLY.get() as f64 * 100.0,
        capabilities_activated: gain,
        workflows_executed: count,
        cost_per_capability,
        avg_cost_per_workflow: (count > 0).then(|| total_spent.dollars() / count as f64),
        efficiency_gain: that_cost.map(|cost| BASELINE_PER_CAPABILITY / cost),
        efficiency: that_cost.map(|cost| 100.0 / cost),
        provider_count: provider_distribution.len(),
        provider_distribution,
    }
}

/// What to do about a cohort's budget.
pub fn suggest(metrics: &CohortMetrics) -> Suggestion {
    let used = metrics.budget_utilization;
    if used > 90.0 {
        let message = format!("{used:.0} % of the month's budget is spent: use less or cheaper providers");
        Suggestion { action: "reduce-or-optimize", message }
    } else if metrics.workflows_executed == 0 {
        Suggestion { action: "maintain", message: "nothing was booked yet".into() }
    } else if used < 40.0 {
        let message = format!("only {used:.0} % of the month's budget is spent: more could be tried");
        Suggestion { action: "increase-allocation", message }
    } else if metrics.cost_per_capability.is_some_and(|cost| cost < 150.0) {
        Suggestion { action: "maintain", message: "spending and results are in proportion".into() }
    } else {
        let message = "capabilities cost more than they should: prefer cheaper providers".into();
        Suggestion { action: "optimize", message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(spent: i64, gain: f64, month: i64) -> Total {
        Total {
            provider: "openai".into(),
            count: 2,
            spent: Micros::new(spent),
            gain,
            month: Micros::new(month),
            today: Micros::ZERO,
        }
    }

    #[test]
    fn figures_are_what_they_are_called() {
        let metrics = summarise("c", &[total(300_000_000, 3.0, 200_000_000)]);
        assert_eq!(metrics.cost_per_capability, Some(100.0));
        assert_eq!(metrics.avg_cost_per_workflow, Some(150.0));
        assert_eq!((metrics.efficiency_gain, metrics.efficiency), (Some(2.0), Some(1.0)));
        assert_eq!(metrics.provider_count, 1);
        assert_eq!(metrics.budget_remaining, Micros::new(9_800_000_000));
        assert!((metrics.budget_utilization - 2.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_known_divides_by_nothing() {
        let metrics = summarise("c", &[]);
        assert_eq!((metrics.cost_per_capability, metrics.efficiency_gain), (None, None));
        assert_eq!(metrics.budget_remaining, MONTHLY);
        assert!(metrics.capabilities_activated.is_sign_positive(), "it would be shown as -0.0");
    }

    #[test]
    fn suggestions_follow_use_and_cost() {
        let action =
            |spent: i64, gain: f64, month: i64| suggest(&summarise("c", &[total(spent, gain, month)])).action;
        assert_eq!(action(9_500_000_000, 1.0, 9_500_000_000), "reduce-or-optimize");
        assert_eq!(action(1_000_000, 1.0, 1_000_000), "increase-allocation");
        assert_eq!(action(5_000_000_000, 100.0, 5_000_000_000), "maintain");
        assert_eq!(action(5_000_000_000, 1.0, 5_000_000_000), "optimize");
        assert_eq!(suggest(&summarise("c", &[])).action, "maintain");
    }
}
