//! Today's spending, what can be afforded, what brings most.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use jiff::Timestamp;
use phase6_chassis::{ApiError, ErrorBody, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{Shelf, briefly_shared, momentary};
use crate::{
    cohort::{DAILY, MONTHLY, TARGET_PER_CAPABILITY},
    ledger::{Call, Day},
    money::Micros,
    provider::ProviderId,
    roi::{self, Rank, rank},
};

use super::cohorts::cohort_id;

#[derive(Serialize, ToSchema)]
pub(crate) struct Today {
    budget: Day,
}

/// What was spent today (UTC), what is set aside, what is left.
#[utoipa::path(get, path = "/api/v1/budget", tag = "budget",
    responses((status = 200, body = Today), (status = 503, body = ErrorBody)))]
pub(crate) async fn today(State(shelf): State<Arc<Shelf>>) -> Result<Response, ApiError> {
    Ok(briefly_shared("spending", Today { budget: shelf.ledger.day(Timestamp::now()).await? }))
}

#[derive(Serialize, ToSchema)]
pub(crate) struct History {
    history: Vec<Call>,
}

/// The newest 200 calls, newest first.
#[utoipa::path(get, path = "/api/v1/budget/history", tag = "budget",
    responses((status = 200, body = History), (status = 503, body = ErrorBody)))]
pub(crate) async fn history(State(shelf): State<Arc<Shelf>>) -> Result<Response, ApiError> {
    Ok(briefly_shared("spending", History { history: shelf.ledger.history().await? }))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CanAffordRequest {
    /// Whose budget.
    cohort_id: String,
    /// Whose price, when no cost is given.
    #[serde(default = "ollama")]
    provider: ProviderId,
    /// What it would cost, in dollars.
    #[schema(value_type = Option<f64>)]
    estimated_cost: Option<Micros>,
}

const fn ollama() -> ProviderId {
    ProviderId::Ollama
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CanAfford {
    cohort_id: String,
    can_afford: bool,
    #[schema(value_type = f64)]
    cost: Micros,
    #[schema(value_type = f64)]
    budget_remaining: Micros,
    /// Percent.
    budget_utilization: f64,
    recommendation: String,
}

/// Whether a cohort's budget of the month and of the day allows a cost.
#[utoipa::path(post, path = "/api/v1/budget/can-afford", tag = "budget", request_body = CanAffordRequest,
    responses((status = 200, body = CanAfford), (status = 400, body = ErrorBody)))]
pub(crate) async fn can_afford(
    State(shelf): State<Arc<Shelf>>,
    Json(request): Json<CanAffordRequest>,
) -> Result<Response, ApiError> {
    let cohort = cohort_id(&request.cohort_id)?;
    let cost = request.estimated_cost.unwrap_or_else(|| shelf.prices.of(request.provider).per_call);
    let metrics = shelf.cohorts.metrics(cohort).await?;
    let today = DAILY.minus(metrics.spent_today);
    let can_afford = cost <= metrics.budget_remaining && cost <= today;
    let recommendation = if can_afford {
        format!("{cost} fits: {} are left this month and {today} today", metrics.budget_remaining)
    } else if cost <= metrics.budget_remaining {
        format!("wait until tomorrow: only {today} are left today")
    } else {
        format!("choose a cheaper provider: only {} are left this month", metrics.budget_remaining)
    };
    Ok(momentary(CanAfford {
        cohort_id: cohort.to_owned(),
        can_afford,
        cost,
        budget_remaining: metrics.budget_remaining,
        budget_utilization: metrics.budget_utilization,
        recommendation,
    }))
}

/// Most workflows that are ranked at a time.
const MOST_RANKED: usize = 1000;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RankRequest {
    /// What to rank; fields that are not known here are passed through,
    /// except for those of the answer: `roi`, `costTier`, `efficiencyCoeff` and `weightedROI`.
    workflows: Vec<Candidate>,
    /// Whose budget decides what is affordable.
    cohort_id: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Candidate {
    provider: Option<ProviderId>,
    /// From 0 to 1000000; by default 0.5.
    expected_gain: Option<f64>,
    /// In dollars; by default the provider's price for a call.
    #[schema(value_type = Option<f64>)]
    cost: Option<Micros>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rest: Map<String, Value>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RankedWorkflow {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rest: Map<String, Value>,
    provider: ProviderId,
    expected_gain: f64,
    #[serde(flatten)]
    rank: Rank,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ranking {
    total: usize,
    /// The best ten.
    ranked: Vec<RankedWorkflow>,
    /// The best ten that the cohort's budget allows.
    affordable: Vec<Value>,
    /// What is left of the cohort's month, in dollars; none without a cohort.
    #[schema(value_type = Option<f64>)]
    budget_remaining: Option<Micros>,
}

/// Ranks workflows by what they bring for their money.
#[utoipa::path(post, path = "/api/v1/budget/rank-by-roi", tag = "budget", request_body = RankRequest,
    responses((status = 200, body = Ranking), (status = 400, body = ErrorBody)))]
pub(crate) async fn rank_by_roi(
    State(shelf): State<Arc<Shelf>>,
    Json(request): Json<RankRequest>,
) -> Result<Response, ApiError> {
    let total = request.workflows.len();
    if total > MOST_RANKED {
        let message = format!("field `workflows` has {total} items; accepted: at most {MOST_RANKED}");
        return Err(ApiError::bad_request("invalid_body", message));
    }
    let budget_remaining = match &request.cohort_id {
        Some(cohort) => Some(shelf.cohorts.metrics(cohort_id(cohort)?).await?.budget_remaining),
        None => None,
    };
    let mut ranked = Vec::with_capacity(total);
    for (index, candidate) in request.workflows.into_iter().enumerate() {
        let gain = candidate.expected_gain.unwrap_or(0.5);
        if !(0.0..=1e6).contains(&gain) {
            let message = format!(
                "field `workflows[{index}].expectedGain` is {gain}; accepted: a number from 0 to 1000000"
            );
            return Err(ApiError::bad_request("invalid_body", message));
        }
        // What is worked out here takes the place of what came under its name.
        let mut rest = candidate.rest;
        for name in roi::NAMES {
            rest.remove(name);
        }
        let provider = candidate.provider.unwrap_or(ProviderId::Ollama);
        let cost = candidate.cost.unwrap_or_else(|| shelf.prices.of(provider).per_call);
        ranked.push(RankedWorkflow { rest, provider, expected_gain: gain, rank: rank(gain, cost) });
    }
    ranked.sort_by(|a, b| b.rank.weighted_roi.total_cmp(&a.rank.weighted_roi));
    let affordable = ranked
        .iter()
        .filter(|workflow| budget_remaining.is_none_or(|left| workflow.rank.cost <= left))
        .take(10)
        .map(|workflow| json!(workflow))
        .collect();
    ranked.truncate(10);
    Ok(momentary(Ranking { total, ranked, affordable, budget_remaining }))
}

/// Prices, cohorts and providers in one answer.
#[utoipa::path(get, path = "/api/v1/budget/export", tag = "budget",
    responses((status = 200, body = Object), (status = 503, body = ErrorBody)))]
pub(crate) async fn export(State(shelf): State<Arc<Shelf>>) -> Result<Response, ApiError> {
    let prices: BTreeMap<_, _> =
        ProviderId::ALL.iter().map(|id| (id.as_str(), shelf.prices.of(*id))).collect();
    let metrics = shelf.cohorts.export().await?;
    let metrics: BTreeMap<_, _> =
        metrics.iter().map(|metrics| (metrics.cohort_id.clone(), metrics)).collect();
    Ok(briefly_shared(
        "spending cohorts",
        json!({
            "providers": prices,
            "cohortBudgets": {
                "monthlyBudget": MONTHLY,
                "dailyBudget": DAILY,
                "costPerCapabilityTarget": TARGET_PER_CAPABILITY,
            },
            "cohortMetrics": metrics,
            "providerStats": shelf.ledger.quality().await?,
        }),
    ))
}
