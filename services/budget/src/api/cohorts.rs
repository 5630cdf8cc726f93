//! Cohorts: their budgets and metrics.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use phase6_chassis::{ApiError, ErrorBody, Json, Path, Principal};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    dollars::Dollars,
    names::Provider,
    response::{briefly_cacheable, uncacheable},
};
use crate::{
    app::{AppState, tags},
    model::cohort::{self, CohortId, DAILY_BUDGET, MONTHLY_BUDGET, TARGET_PER_CAPABILITY},
};

/// Budgets of a cohort.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BudgetPolicy {
    /// Budget of a calendar month (UTC), in dollars.
    monthly_budget: f64,
    /// Budget of a day (UTC), in dollars.
    daily_budget: f64,
    /// Target cost of a capability, in dollars.
    cost_per_capability_target: f64,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self {
            monthly_budget: MONTHLY_BUDGET.dollars(),
            daily_budget: DAILY_BUDGET.dollars(),
            cost_per_capability_target: TARGET_PER_CAPABILITY.dollars(),
        }
    }
}

/// Spending of a cohort and its results.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CohortMetrics {
    /// Identifier of the cohort.
    cohort_id: String,
    /// Amount spent since the first workflow, in dollars.
    total_spent: f64,
    /// Amount spent this calendar month (UTC), in dollars.
    spent_this_month: f64,
    /// Amount spent today (UTC), in dollars.
    spent_today: f64,
    /// Remaining budget of the month, in dollars.
    budget_remaining: f64,
    /// Share of the monthly budget that is spent, in percent.
    budget_utilization: f64,
    /// Number of capabilities that workflows activated.
    capabilities_activated: f64,
    /// Number of recorded workflows.
    workflows_executed: i64,
    /// Mean cost of a capability, in dollars; null without capabilities.
    cost_per_capability: Option<f64>,
    /// Mean cost of a workflow, in dollars; null without workflows.
    avg_cost_per_workflow: Option<f64>,
    /// Baseline cost of a capability ($200) divided by its actual cost; null without capabilities or
    /// costs.
    efficiency_gain: Option<f64>,
    /// Capabilities per 100 dollars; null without capabilities or costs.
    efficiency: Option<f64>,
    /// Workflows and costs by provider.
    provider_distribution: BTreeMap<String, ProviderShare>,
    /// Number of providers that were paid.
    provider_count: usize,
}

/// Share of one provider in the workflows of a cohort.
#[derive(Clone, Serialize, ToSchema)]
struct ProviderShare {
    /// Number of workflows.
    count: i64,
    /// Amount paid to the provider, in dollars.
    spent: f64,
}

/// Advice on the budget of a cohort.
#[derive(Serialize, ToSchema)]
struct Suggestion {
    /// `reduce-or-optimize`, `maintain`, `increase-allocation` or `optimize`.
    action: &'static str,
    /// Reason for the action.
    message: String,
}

impl From<cohort::CohortMetrics> for CohortMetrics {
    fn from(metrics: cohort::CohortMetrics) -> Self {
        let share = |(provider, share): (String, cohort::ProviderShare)| {
            (provider, ProviderShare { count: share.workflows, spent: share.spent.dollars() })
        };
        Self {
            cohort_id: metrics.cohort_id,
            total_spent: metrics.total_spent.dollars(),
            spent_this_month: metrics.spent_this_month.dollars(),
            spent_today: metrics.spent_today.dollars(),
            budget_remaining: metrics.budget_remaining.dollars(),
            budget_utilization: metrics.budget_utilization,
            capabilities_activated: metrics.capabilities_activated,
            workflows_executed: metrics.workflows_executed,
            cost_per_capability: metrics.cost_per_capability,
            avg_cost_per_workflow: metrics.avg_cost_per_workflow,
            efficiency_gain: metrics.efficiency_gain,
            efficiency: metrics.efficiency,
            provider_count: metrics.provider_distribution.len(),
            provider_distribution: metrics.provider_distribution.into_iter().map(share).collect(),
        }
    }
}

impl From<cohort::Suggestion> for Suggestion {
    fn from(suggestion: cohort::Suggestion) -> Self {
        Self { action: suggestion.action.as_str(), message: suggestion.message }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CohortPolicyResponse {
    /// Identifier of the cohort.
    cohort_id: String,
    budget_policy: BudgetPolicy,
    /// Baseline cost of a capability ($200) divided by its actual cost; null without capabilities or
    /// costs.
    efficiency_gain: Option<f64>,
    metrics: CohortMetrics,
    /// Usable providers, the least expensive one first.
    provider_recommendations: Vec<Provider>,
    suggested_policy: Suggestion,
}

/// Budgets of a cohort, its metrics, and advice.
#[utoipa::path(get, path = "/api/v1/budget/policy/{cohortId}", tag = "cohorts", operation_id = "cohort_policy",
    params(("cohortId" = String, Path)),
    responses((status = 200, body = CohortPolicyResponse), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn policy(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    Path(cohort): Path<String>,
) -> Result<Response, ApiError> {
    let cohort = CohortId::new(cohort)?;
    let overview = state.cohort_overview(&principal.tenant, &cohort).await?;
    let response = CohortPolicyResponse {
        cohort_id: cohort.to_string(),
        budget_policy: BudgetPolicy::default(),
        efficiency_gain: overview.metrics.efficiency_gain,
        metrics: overview.metrics.into(),
        provider_recommendations: overview.providers.into_iter().map(Into::into).collect(),
        suggested_policy: overview.suggestion.into(),
    };
    Ok(briefly_cacheable(state.now(), &[tags::COHORTS, &tags::cohort(&cohort)], response))
}

/// The first fields repeat those of `metrics`, where an earlier version had them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CohortMetricsResponse {
    /// Identifier of the cohort.
    cohort_id: String,
    /// Copy of the value in `metrics`.
    efficiency_gain: Option<f64>,
    /// Copy of the value in `metrics`.
    cost_per_capability: Option<f64>,
    /// Copy of the value in `metrics`.
    budget_utilization: f64,
    /// Copy of the value in `metrics`.
    provider_distribution: BTreeMap<String, ProviderShare>,
    metrics: CohortMetrics,
}

/// Spending of a cohort and its results.
#[utoipa::path(get, path = "/api/v1/budget/metrics/{cohortId}", tag = "cohorts", operation_id = "cohort_metrics",
    params(("cohortId" = String, Path)),
    responses((status = 200, body = CohortMetricsResponse), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn metrics(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    Path(cohort): Path<String>,
) -> Result<Response, ApiError> {
    let cohort = CohortId::new(cohort)?;
    let metrics = CohortMetrics::from(state.cohort_metrics(&principal.tenant, &cohort).await?);
    let response = CohortMetricsResponse {
        cohort_id: cohort.to_string(),
        efficiency_gain: metrics.efficiency_gain,
        cost_per_capability: metrics.cost_per_capability,
        budget_utilization: metrics.budget_utilization,
        provider_distribution: metrics.provider_distribution.clone(),
        metrics,
    };
    Ok(briefly_cacheable(state.now(), &[tags::COHORTS, &tags::cohort(&cohort)], response))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CanAffordRequest {
    /// Identifier of the cohort.
    cohort_id: String,
    /// Provider whose price is used if no cost is given. Default `ollama`.
    #[serde(default = "ollama")]
    provider: Provider,
    /// Estimated cost, in dollars.
    #[schema(value_type = Option<f64>)]
    estimated_cost: Option<Dollars>,
}

const fn ollama() -> Provider {
    Provider::Ollama
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CanAffordResponse {
    /// Identifier of the cohort.
    cohort_id: String,
    /// True if both the monthly and the daily budget allow the cost.
    can_afford: bool,
    /// Cost, in dollars.
    cost: f64,
    /// Remaining budget of the month, in dollars.
    budget_remaining: f64,
    /// Share of the monthly budget that is spent, in percent.
    budget_utilization: f64,
    /// Reason, and the alternative if the cost is not affordable.
    recommendation: String,
}

/// Checks if the monthly and the daily budget of a cohort allow a cost.
#[utoipa::path(post, path = "/api/v1/budget/can-afford", tag = "budget", request_body = CanAffordRequest,
    responses((status = 200, body = CanAffordResponse), (status = 400, body = ErrorBody)))]
pub(super) async fn can_afford(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    Json(request): Json<CanAffordRequest>,
) -> Result<Response, ApiError> {
    let cohort = CohortId::new(request.cohort_id)?;
    let estimate = request.estimated_cost.map(|Dollars(cost)| cost);
    let check = state.check_cost(&principal.tenant, &cohort, request.provider.into(), estimate).await?;
    Ok(uncacheable(CanAffordResponse {
        cohort_id: cohort.to_string(),
        can_afford: check.affordability.affordable,
        cost: check.cost.dollars(),
        budget_remaining: check.metrics.budget_remaining.dollars(),
        budget_utilization: check.metrics.budget_utilization,
        recommendation: check.affordability.recommendation,
    }))
}
