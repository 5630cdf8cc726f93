//! Cohorts: groups of users whose workflows are charged to a shared budget.
//!
//! Every cohort has the same monthly and daily budget. The budgets are advisory: they decide what
//! [`affordability`] and [`suggest`] say and block nothing.

use std::{collections::BTreeMap, fmt};

use super::{InvalidValue, MicroDollars};

/// Budget of a cohort for a calendar month (UTC).
pub const MONTHLY_BUDGET: MicroDollars = MicroDollars::new(10_000_000_000);
/// Budget of a cohort for a day (UTC).
pub const DAILY_BUDGET: MicroDollars = MicroDollars::new(350_000_000);
/// Target cost of a capability.
pub const TARGET_PER_CAPABILITY: MicroDollars = MicroDollars::new(100_000_000);
/// Cost of a capability before anything was tuned, in dollars; the baseline of the efficiency gain.
pub const BASELINE_PER_CAPABILITY: f64 = 200.0;
/// Longest identifier, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Identifier of a cohort: 1 to 128 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CohortId(String);

impl CohortId {
    /// Checks an identifier.
    ///
    /// # Errors
    ///
    /// The identifier is empty, too long, or has control characters.
    pub fn new(id: String) -> Result<Self, InvalidValue> {
        check_id("cohortId", id).map(Self)
    }

    /// Text of the identifier.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CohortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the identifier in `field`.
pub(super) fn check_id(field: &str, id: String) -> Result<String, InvalidValue> {
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
        let accepted = format!("1 to {MAX_ID_BYTES} bytes without control characters");
        return Err(InvalidValue::new(field, format_args!("{id:?}"), accepted));
    }
    Ok(id)
}

/// Totals of the workflows of a cohort that paid one provider.
#[derive(Clone, Debug)]
pub struct ProviderTotals {
    /// Provider that was paid.
    pub provider: String,
    /// Number of workflows.
    pub workflows: i64,
    /// Number of capabilities that the workflows activated.
    pub capability_gain: f64,
    /// Spent since the first workflow.
    pub spent: MicroDollars,
    /// Spent this calendar month (UTC).
    pub spent_this_month: MicroDollars,
    /// Spent today (UTC).
    pub spent_today: MicroDollars,
}

/// Spending of a cohort and its results.
#[derive(Clone, Debug, PartialEq)]
pub struct CohortMetrics {
    /// Identifier of the cohort.
    pub cohort_id: String,
    /// Spent since the first workflow.
    pub total_spent: MicroDollars,
    /// Spent this calendar month (UTC).
    pub spent_this_month: MicroDollars,
    /// Spent today (UTC).
    pub spent_today: MicroDollars,
    /// Remaining budget of the month.
    pub budget_remaining: MicroDollars,
    /// Share of the monthly budget that is spent, in percent.
    pub budget_utilization: f64,
    /// Number of capabilities that workflows activated.
    pub capabilities_activated: f64,
    /// Number of recorded workflows.
    pub workflows_executed: i64,
    /// Mean cost of a capability, in dollars; `None` without capabilities.
    pub cost_per_capability: Option<f64>,
    /// Mean cost of a workflow, in dollars; `None` without workflows.
    pub avg_cost_per_workflow: Option<f64>,
    /// Baseline cost of a capability divided by its actual cost; `None` without capabilities or costs.
    pub efficiency_gain: Option<f64>,
    /// Capabilities per 100 dollars; `None` without capabilities or costs.
    pub efficiency: Option<f64>,
    /// Workflows and costs by provider.
    pub provider_distribution: BTreeMap<String, ProviderShare>,
}

/// Share of one provider in the workflows of a cohort.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderShare {
    /// Number of workflows.
    pub workflows: i64,
    /// Amount paid to the provider.
    pub spent: MicroDollars,
}

impl CohortMetrics {
    /// Summarizes the totals of a cohort. Without totals, the cohort has spent nothing.
    pub fn summarize(cohort_id: &str, totals: &[ProviderTotals]) -> Self {
        let sum = |amount: fn(&ProviderTotals) -> MicroDollars| {
            totals.iter().map(amount).fold(MicroDollars::ZERO, MicroDollars::saturating_add)
        };
        let total_spent = sum(|total| total.spent);
        let spent_this_month = sum(|total| total.spent_this_month);
        // The sum of no floats is a negative zero, which JSON would show as -0.0.
        let capabilities = totals.iter().map(|total| total.capability_gain).sum::<f64>() + 0.0;
        let workflows: i64 = totals.iter().map(|total| total.workflows).sum();
        let cost_per_capability = (capabilities > 0.0).then(|| total_spent.dollars() / capabilities);
        let positive_cost = cost_per_capability.filter(|cost| *cost > 0.0);
        let share = |total: &ProviderTotals| {
            let share = ProviderShare { workflows: total.workflows, spent: total.spent };
            (total.provider.clone(), share)
        };
        Self {
            cohort_id: cohort_id.to_owned(),
            total_spent,
            spent_this_month,
            spent_today: sum(|total| total.spent_today),
            budget_remaining: MONTHLY_BUDGET.saturating_sub(spent_this_month),
            budget_utilization: spent_this_month.get() as f64 / MONTHLY_BUDGET.get() as f64 * 100.0,
            capabilities_activated: capabilities,
            workflows_executed: workflows,
            cost_per_capability,
            avg_cost_per_workflow: (workflows > 0).then(|| total_spent.dollars() / workflows as f64),
            efficiency_gain: positive_cost.map(|cost| BASELINE_PER_CAPABILITY / cost),
            efficiency: positive_cost.map(|cost| 100.0 / cost),
            provider_distribution: totals.iter().map(share).collect(),
        }
    }
}

/// Advice on the budget of a cohort.
#[derive(Clone, Debug, PartialEq)]
pub struct Suggestion {
    /// Suggested action.
    pub action: SuggestedAction,
    /// Reason for the action.
    pub message: String,
}

/// Suggested change of a cohort's spending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuggestedAction {
    /// Spend less, or use less expensive providers.
    ReduceOrOptimize,
    /// Leave the spending as it is.
    Maintain,
    /// Spend more.
    IncreaseAllocation,
    /// Use less expensive providers.
    Optimize,
}

impl SuggestedAction {
    /// Name in responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReduceOrOptimize => "reduce-or-optimize",
            Self::Maintain => "maintain",
            Self::IncreaseAllocation => "increase-allocation",
            Self::Optimize => "optimize",
        }
    }
}

/// Suggests how to change the spending of a cohort.
pub fn suggest(metrics: &CohortMetrics) -> Suggestion {
    let used = metrics.budget_utilization;
    let (action, message) = if used > 90.0 {
        let message =
            format!("{used:.0} % of the monthly budget is spent: use fewer or less expensive providers");
        (SuggestedAction::ReduceOrOptimize, message)
    } else if metrics.workflows_executed == 0 {
        (SuggestedAction::Maintain, "no workflow is recorded yet".to_owned())
    } else if used < 40.0 {
        let message =
            format!("only {used:.0} % of the monthly budget is spent: more workflows are affordable");
        (SuggestedAction::IncreaseAllocation, message)
    } else if metrics.cost_per_capability.is_some_and(|cost| cost < 150.0) {
        (SuggestedAction::Maintain, "spending is in proportion to results".to_owned())
    } else {
        let message = "the cost per capability is above its target: prefer less expensive providers";
        (SuggestedAction::Optimize, message.to_owned())
    };
    Suggestion { action, message }
}

/// Answer to the question if a cohort's budget allows a cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Affordability {
    /// True if both the monthly and the daily budget allow the cost.
    pub affordable: bool,
    /// Reason, and the alternative if the cost is not affordable.
    pub recommendation: String,
}

/// Compares a cost with the remaining budgets of a cohort.
pub fn affordability(cost: MicroDollars, metrics: &CohortMetrics) -> Affordability {
    let this_month = metrics.budget_remaining;
    let today = DAILY_BUDGET.saturating_sub(metrics.spent_today);
    let affordable = cost <= this_month && cost <= today;
    let recommendation = if affordable {
        format!("{cost} is affordable: {this_month} remain this month and {today} today")
    } else if cost <= this_month {
        format!("wait until tomorrow: only {today} remain today")
    } else {
        format!("choose a less expensive provider: only {this_month} remain this month")
    };
    Affordability { affordable, recommendation }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(spent: i64, capability_gain: f64, spent_this_month: i64) -> ProviderTotals {
        ProviderTotals {
            provider: "openai".into(),
            workflows: 2,
            capability_gain,
            spent: MicroDollars::new(spent),
            spent_this_month: MicroDollars::new(spent_this_month),
            spent_today: MicroDollars::ZERO,
        }
    }

    #[test]
    fn metrics_follow_their_definitions() {
        let metrics = CohortMetrics::summarize("c", &[totals(300_000_000, 3.0, 200_000_000)]);
        assert_eq!(metrics.cost_per_capability, Some(100.0));
        assert_eq!(metrics.avg_cost_per_workflow, Some(150.0));
        assert_eq!((metrics.efficiency_gain, metrics.efficiency), (Some(2.0), Some(1.0)));
        assert_eq!(metrics.provider_distribution.len(), 1);
        assert_eq!(metrics.budget_remaining, MicroDollars::new(9_800_000_000));
        assert!((metrics.budget_utilization - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_cohort_without_workflows_divides_by_nothing() {
        let metrics = CohortMetrics::summarize("c", &[]);
        assert_eq!((metrics.cost_per_capability, metrics.efficiency_gain), (None, None));
        assert_eq!(metrics.budget_remaining, MONTHLY_BUDGET);
        assert!(metrics.capabilities_activated.is_sign_positive(), "JSON would show -0.0");
    }

    #[test]
    fn suggestions_follow_utilization_and_cost() {
        let action = |spent: i64, capability_gain: f64, spent_this_month: i64| {
            let totals = totals(spent, capability_gain, spent_this_month);
            suggest(&CohortMetrics::summarize("c", &[totals])).action
        };
        assert_eq!(action(9_500_000_000, 1.0, 9_500_000_000), SuggestedAction::ReduceOrOptimize);
        assert_eq!(action(1_000_000, 1.0, 1_000_000), SuggestedAction::IncreaseAllocation);
        assert_eq!(action(5_000_000_000, 100.0, 5_000_000_000), SuggestedAction::Maintain);
        assert_eq!(action(5_000_000_000, 1.0, 5_000_000_000), SuggestedAction::Optimize);
        assert_eq!(suggest(&CohortMetrics::summarize("c", &[])).action, SuggestedAction::Maintain);
    }

    #[test]
    fn a_cost_must_fit_both_the_day_and_the_month() {
        let metrics = CohortMetrics::summarize("c", &[totals(0, 1.0, 9_900_000_000)]);
        let check = |cost| affordability(MicroDollars::new(cost), &metrics);
        assert!(check(100_000_000).affordable);
        assert!(check(101_000_000).recommendation.contains("this month"));
        let fresh = CohortMetrics::summarize("c", &[]);
        assert!(
            affordability(MicroDollars::new(351_000_000), &fresh).recommendation.contains("until tomorrow")
        );
    }

    #[test]
    fn rejects_identifiers_that_are_empty_too_long_or_have_control_characters() {
        for id in [String::new(), "x".repeat(129), "a\0b".into()] {
            assert_eq!(CohortId::new(id).unwrap_err().field, "cohortId");
        }
        assert!(CohortId::new("x".repeat(128)).is_ok());
    }
}
