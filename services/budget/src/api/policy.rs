//! The provider policy: number of concurrent calls, and default criticality.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use phase6_chassis::{ApiError, ErrorBody, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    names::Criticality,
    response::{briefly_cacheable, uncacheable},
};
use crate::{
    app::{AppState, tags},
    model::{self, policy::MIN_CONCURRENCY},
};

/// Policy for calls to providers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProviderPolicy {
    /// Maximum number of concurrent calls of one replica, from 1 to 12.
    max_concurrency: u32,
    /// Minimum number of concurrent calls; always 1.
    min_concurrency: u32,
    /// Criticality of requests that do not state one.
    criticality: Criticality,
}

impl From<model::ProviderPolicy> for ProviderPolicy {
    fn from(policy: model::ProviderPolicy) -> Self {
        Self {
            max_concurrency: policy.max_concurrency,
            min_concurrency: MIN_CONCURRENCY,
            criticality: policy.criticality.into(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct ProviderPolicyResponse {
    policy: ProviderPolicy,
}

/// Change of the provider policy. Absent values stay as they are.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicyChange {
    /// Maximum number of concurrent calls of one replica, from 1 to 12.
    max_concurrency: Option<u32>,
    /// `low`, `normal`, `high` or `critical`.
    criticality: Option<Criticality>,
}

/// Policy for calls to providers.
#[utoipa::path(get, path = "/api/v1/providers/policy", tag = "providers", operation_id = "provider_policy",
    responses((status = 200, body = ProviderPolicyResponse)))]
pub(super) async fn policy(State(state): State<Arc<AppState>>) -> Response {
    briefly_cacheable(
        state.now(),
        &[tags::PROVIDER_POLICY],
        ProviderPolicyResponse { policy: state.policy().into() },
    )
}

/// Changes the policy for calls to providers, for all replicas.
#[utoipa::path(post, path = "/api/v1/providers/policy", tag = "providers", operation_id = "change_provider_policy", request_body = PolicyChange,
    responses((status = 200, body = ProviderPolicyResponse), (status = 400, body = ErrorBody)))]
pub(super) async fn change_policy(
    State(state): State<Arc<AppState>>,
    Json(change): Json<PolicyChange>,
) -> Result<Response, ApiError> {
    let change = model::PolicyChange::new(change.max_concurrency, change.criticality.map(Into::into))?;
    let policy = state.change_policy(change).await?;
    Ok(uncacheable(ProviderPolicyResponse { policy: policy.into() }))
}
