//! Costs booked to groups of users.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use phase6_chassis::{ApiError, ErrorBody, Json, Path, cache::Invalidation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{Shelf, briefly_shared, momentary};
use crate::{
    cohort::{
        CohortMetrics, DAILY, MONTHLY, MOST_PER_WORKFLOW, Recorded, Share, Suggestion, TARGET_PER_CAPABILITY,
        Workflow, suggest,
    },
    money::Micros,
    provider::ProviderId,
};

/// A cohort's identity as it is accepted.
pub(crate) fn cohort_id(text: &str) -> Result<&str, ApiError> {
    identity("cohortId", text)
}

fn identity<'a>(field: &str, text: &'a str) -> Result<&'a str, ApiError> {
    if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        let message =
            format!("field `{field}` is {text:?}; accepted: 1 to 128 bytes without control characters");
        return Err(ApiError::bad_request("invalid_body", message));
    }
    Ok(text)
}

fn tag(cohort: &str) -> String {
    // A tag holds no spaces.
    let plain = |c: char| if c.is_ascii_graphic() { c } else { '_' };
    format!("cohorts cohort:{}", cohort.chars().map(plain).collect::<String>())
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CohortPolicy {
    cohort_id: String,
    /// The cohort's budgets, in dollars.
    #[schema(value_type = Object)]
    budget_policy: serde_json::Value,
    /// How many times cheaper a capability is than the yardstick; none without capabilities or costs.
    efficiency_gain: Option<f64>,
    metrics: CohortMetrics,
    /// Usable providers, cheapest first.
    provider_recommendations: Vec<ProviderId>,
    suggested_policy: Suggestion,
}

/// A cohort's budget, what it has spent, and what to do about it.
#[utoipa::path(get, path = "/api/v1/budget/policy/{cohortId}", tag = "cohorts", operation_id = "cohort_policy",
    params(("cohortId" = String, Path)),
    responses((status = 200, body = CohortPolicy), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn policy(
    State(shelf): State<Arc<Shelf>>,
    Path(cohort): Path<String>,
) -> Result<Response, ApiError> {
    let metrics = shelf.cohorts.metrics(cohort_id(&cohort)?).await?;
    let mut providers = shelf.directory.usable().await;
    providers.sort_by_key(|id| shelf.prices.of(*id).per_call);
    let body = CohortPolicy {
        budget_policy: json!({
            "monthlyBudget": MONTHLY,
            "dailyBudget": DAILY,
            "costPerCapabilityTarget": TARGET_PER_CAPABILITY,
        }),
        suggested_policy: suggest(&metrics),
        efficiency_gain: metrics.efficiency_gain,
        metrics,
        provider_recommendations: providers,
        cohort_id: cohort.clone(),
    };
    Ok(briefly_shared(&tag(&cohort), body))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MetricsAnswer {
    cohort_id: String,
    /// The figures that callers look at most, again where the system before this one had them; as
    /// numbers.
    efficiency_gain: Option<f64>,
    cost_per_capability: Option<f64>,
    budget_utilization: f64,
    provider_distribution: BTreeMap<String, Share>,
    metrics: CohortMetrics,
}

/// What a cohort has spent, and on what.
#[utoipa::path(get, path = "/api/v1/budget/metrics/{cohortId}", tag = "cohorts", operation_id = "cohort_metrics",
    params(("cohortId" = String, Path)),
    responses((status = 200, body = MetricsAnswer), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn metrics(
    State(shelf): State<Arc<Shelf>>,
    Path(cohort): Path<String>,
) -> Result<Response, ApiError> {
    let metrics = shelf.cohorts.metrics(cohort_id(&cohort)?).await?;
    let body = MetricsAnswer {
        cohort_id: cohort.clone(),
        efficiency_gain: metrics.efficiency_gain,
        cost_per_capability: metrics.cost_per_capability,
        budget_utilization: metrics.budget_utilization,
        provider_distribution: metrics.provider_distribution.clone(),
        metrics,
    };
    Ok(briefly_shared(&tag(&cohort), body))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkflowRequest {
    /// Whose cost it is.
    cohort_id: String,
    /// Its identity within the cohort: booked twice, it counts once.
    workflow_id: String,
    /// Who was paid.
    provider: ProviderId,
    /// What it cost, in dollars, from 0 to 1000000; by default the provider's price for a call.
    #[schema(value_type = Option<f64>)]
    cost: Option<Micros>,
    /// What it brought, in capabilities, from 0 to 1000000.
    #[serde(default = "one")]
    capability_gain: f64,
}

const fn one() -> f64 {
    1.0
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordedWorkflow {
    /// False if it had been booked before.
    recorded: bool,
    cohort_id: String,
    workflow_id: String,
    metrics: CohortMetrics,
}

/// Books a workflow's cost to a cohort, once.
#[utoipa::path(post, path = "/api/v1/budget/record-workflow", tag = "cohorts", request_body = WorkflowRequest,
    responses((status = 200, body = RecordedWorkflow), (status = 400, body = ErrorBody),
        (status = 409, description = "Another workflow of this identity was booked", body = ErrorBody)))]
pub(crate) async fn record_workflow(
    State(shelf): State<Arc<Shelf>>,
    Json(request): Json<WorkflowRequest>,
) -> Result<Response, ApiError> {
    if !(0.0..=1e6).contains(&request.capability_gain) {
        let message = format!(
            "field `capabilityGain` is {}; accepted: a number from 0 to 1000000",
            request.capability_gain
        );
        return Err(ApiError::bad_request("invalid_body", message));
    }
    let cost = request.cost.unwrap_or_else(|| shelf.prices.of(request.provider).per_call);
    if cost > MOST_PER_WORKFLOW {
        let message = format!("field `cost` is {}; accepted: dollars from 0 to 1000000", cost.dollars());
        return Err(ApiError::bad_request("invalid_body", message));
    }
    let workflow = Workflow {
        cohort: cohort_id(&request.cohort_id)?.to_owned(),
        workflow: identity("workflowId", &request.workflow_id)?.to_owned(),
        provider: request.provider,
        cost,
        // Not a negative zero.
        gain: request.capability_gain + 0.0,
    };
    let recorded = shelf.cohorts.record(&workflow, Timestamp::now()).await?;
    if recorded == Recorded::Differs {
        let message = format!("workflow {:?} of this cohort was booked with other values", workflow.workflow);
        return Err(ApiError::new(StatusCode::CONFLICT, "conflict", message));
    }
    if recorded == Recorded::Now {
        for tag in tag(&workflow.cohort).split(' ') {
            shelf.kit.cache.invalidate(Invalidation::Tag(tag.to_owned()));
        }
    }
    let metrics = shelf.cohorts.metrics(&workflow.cohort).await?;
    Ok(momentary(RecordedWorkflow {
        recorded: recorded == Recorded::Now,
        cohort_id: workflow.cohort,
        workflow_id: workflow.workflow,
        metrics,
    }))
}
