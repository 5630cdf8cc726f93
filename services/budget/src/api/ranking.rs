//! Ranking of workflows by their return on investment.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use phase6_chassis::{ApiError, ErrorBody, Json, Principal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{dollars::Dollars, names::Provider, response::uncacheable};
use crate::{
    app::AppState,
    model::{
        MicroDollars,
        cohort::CohortId,
        roi::{self, Ranked},
    },
};

/// Fields of [`RoiScore`], besides `cost`. Fields of these names in a request are not passed
/// through, because a response would show them twice.
const SCORE_FIELDS: [&str; 4] = ["roi", "costTier", "efficiencyCoeff", "weightedROI"];

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RankRequest {
    /// Workflows to rank, at most 1000. Unknown fields are passed through, except those that the
    /// response adds: `roi`, `costTier`, `efficiencyCoeff` and `weightedROI`.
    workflows: Vec<Candidate>,
    /// Cohort whose remaining budget decides which workflows are affordable.
    cohort_id: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    /// Provider that the workflow calls. Default `ollama`.
    provider: Option<Provider>,
    /// Expected gain, from 0 to 1000000. Default 0.5.
    expected_gain: Option<f64>,
    /// Cost in dollars. Defaults to the provider's price of a call.
    #[schema(value_type = Option<f64>)]
    cost: Option<Dollars>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    other_fields: Map<String, Value>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RankedWorkflow {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    other_fields: Map<String, Value>,
    /// Provider that the workflow calls.
    provider: Provider,
    /// Expected gain.
    expected_gain: f64,
    #[serde(flatten)]
    score: RoiScore,
}

/// Return on investment of a workflow.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RoiScore {
    /// Cost of the workflow, in dollars.
    cost: f64,
    /// Gain per dollar.
    roi: f64,
    /// `free`, `economy`, `standard` or `premium`.
    cost_tier: &'static str,
    /// Coefficient of the cost tier.
    efficiency_coeff: f64,
    /// Gain per dollar times the coefficient, which decides the rank.
    #[serde(rename = "weightedROI")]
    weighted_roi: f64,
}

impl From<roi::Score> for RoiScore {
    fn from(score: roi::Score) -> Self {
        Self {
            cost: score.cost.dollars(),
            roi: score.roi,
            cost_tier: score.cost_tier,
            efficiency_coeff: score.coefficient,
            weighted_roi: score.weighted_roi,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RankResponse {
    /// Number of workflows in the request.
    total: usize,
    /// The best ten workflows.
    ranked: Vec<RankedWorkflow>,
    /// The best ten workflows that the budget of the cohort allows.
    affordable: Vec<RankedWorkflow>,
    /// Remaining budget of the cohort for the month, in dollars; null without a cohort.
    budget_remaining: Option<f64>,
}

/// Ranks workflows by their return on investment, weighted by cost tier.
#[utoipa::path(post, path = "/api/v1/budget/rank-by-roi", tag = "budget", request_body = RankRequest,
    responses((status = 200, body = RankResponse), (status = 400, body = ErrorBody)))]
pub(super) async fn rank_by_roi(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    Json(request): Json<RankRequest>,
) -> Result<Response, ApiError> {
    let cohort = request.cohort_id.map(CohortId::new).transpose()?;
    let (candidates, other_fields): (Vec<_>, Vec<_>) = request.workflows.into_iter().map(split).unzip();
    let ranking = state.rank_workflows(&principal.tenant, &candidates, cohort.as_ref()).await?;
    let ranked = |workflow: Ranked| RankedWorkflow {
        other_fields: other_fields[workflow.index].clone(),
        provider: workflow.provider.into(),
        expected_gain: workflow.expected_gain,
        score: workflow.score.into(),
    };
    Ok(uncacheable(RankResponse {
        total: candidates.len(),
        ranked: ranking.best.into_iter().map(ranked).collect(),
        affordable: ranking.affordable.into_iter().map(ranked).collect(),
        budget_remaining: ranking.budget_remaining.map(MicroDollars::dollars),
    }))
}

/// Separates the fields that decide the rank from those that are passed through.
fn split(mut workflow: Candidate) -> (roi::Candidate, Map<String, Value>) {
    for field in SCORE_FIELDS {
        workflow.other_fields.remove(field);
    }
    let candidate = roi::Candidate {
        provider: workflow.provider.map(Into::into),
        expected_gain: workflow.expected_gain,
        cost: workflow.cost.map(|Dollars(cost)| cost),
    };
    (candidate, workflow.other_fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_fields_are_those_of_the_score() {
        let score = RoiScore::from(roi::Score::new(1.0, MicroDollars::ZERO));
        let score = serde_json::to_value(score).unwrap();
        let mut fields: Vec<_> = score.as_object().unwrap().keys().map(String::as_str).collect();
        fields.retain(|field| *field != "cost");
        fields.sort_unstable();
        let mut expected = SCORE_FIELDS;
        expected.sort_unstable();
        assert_eq!(fields, expected);
    }
}
