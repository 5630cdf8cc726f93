//! Workflows that are charged to cohorts.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use phase6_chassis::{ApiError, ErrorBody, IdempotencyHeader, Idempotent, Principal, store::Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{cohorts::CohortMetrics, dollars::Dollars, names::Provider};
use crate::{
    app::{AppState, RecordWorkflowError},
    model::workflow::ReportedWorkflow,
};

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RecordWorkflowRequest {
    /// Identifier of the cohort to charge.
    cohort_id: String,
    /// Identifier of the workflow within the cohort. A workflow that is recorded twice is charged
    /// once.
    workflow_id: String,
    /// Provider that was paid.
    provider: Provider,
    /// Cost in dollars, from 0 to 1000000. Defaults to the provider's price of a call.
    #[schema(value_type = Option<f64>)]
    cost: Option<Dollars>,
    /// Number of capabilities that the workflow activated, from 0 to 1000000. Default 1.
    #[serde(default = "one")]
    capability_gain: f64,
}

const fn one() -> f64 {
    1.0
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordWorkflowResponse {
    /// False if the workflow had been recorded before.
    recorded: bool,
    /// Identifier of the cohort.
    cohort_id: String,
    /// Identifier of the workflow.
    workflow_id: String,
    metrics: CohortMetrics,
}

/// Charges the cost of a workflow to a cohort, once.
#[utoipa::path(post, path = "/api/v1/budget/record-workflow", tag = "cohorts", request_body = RecordWorkflowRequest,
    params(IdempotencyHeader),
    responses((status = 200, body = RecordWorkflowResponse), (status = 400, body = ErrorBody),
        (status = 409, description = "A different workflow with this identifier is recorded, or a request with this idempotency key is in progress", body = ErrorBody),
        (status = 422, description = "The idempotency key was used for another request", body = ErrorBody)))]
pub(super) async fn record_workflow(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    Idempotent { body: request, idempotency }: Idempotent<RecordWorkflowRequest>,
) -> Result<Response, ApiError> {
    let workflow = ReportedWorkflow {
        cohort_id: request.cohort_id,
        workflow_id: request.workflow_id,
        provider: request.provider.into(),
        cost: request.cost.map(|Dollars(cost)| cost),
        capability_gain: request.capability_gain,
    };
    let record = async |tx: &mut Tx| {
        let recorded = state.record_workflow(tx, &principal.tenant, workflow).await?;
        Ok::<_, RecordWorkflowError>(RecordWorkflowResponse {
            recorded: recorded.is_new,
            cohort_id: recorded.workflow.cohort.to_string(),
            workflow_id: recorded.workflow.id.as_str().to_owned(),
            metrics: recorded.metrics.into(),
        })
    };
    idempotency.transact(state.store(), record).await
}
