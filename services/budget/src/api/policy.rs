//! The provider policy: number of concurrent calls, and default criticality.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header::ETAG;
use phase6_chassis::{
    ApiError, ErrorBody, IfMatch, Json, etag,
    store::{ExpectedVersion, Versioned},
};
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

/// A whole provider policy.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewPolicy {
    /// Maximum number of concurrent calls of one replica, from 1 to 12.
    max_concurrency: u32,
    /// `low`, `normal`, `high` or `critical`.
    criticality: Criticality,
}

/// Policy for calls to providers. The header `ETag` is its version.
#[utoipa::path(get, path = "/api/v1/providers/policy", tag = "providers", operation_id = "provider_policy",
    responses((status = 200, body = ProviderPolicyResponse)))]
pub(super) async fn policy(State(state): State<Arc<AppState>>) -> Response {
    let Versioned { version, value } = state.versioned_policy();
    let body = ProviderPolicyResponse { policy: value.into() };
    ([(ETAG, etag(version))], briefly_cacheable(state.now(), &[tags::PROVIDER_POLICY], body)).into_response()
}

/// Changes the policy for calls to providers, for all replicas. With `If-Match`, only if the policy has that
/// version.
#[utoipa::path(post, path = "/api/v1/providers/policy", tag = "providers", operation_id = "change_provider_policy", request_body = PolicyChange,
    params(("If-Match" = Option<String>, Header, description = "Version that the change follows: the `ETag` of a response")),
    responses((status = 200, body = ProviderPolicyResponse), (status = 400, body = ErrorBody),
        (status = 412, body = ErrorBody, description = "The policy has another version")))]
pub(super) async fn change_policy(
    State(state): State<Arc<AppState>>,
    if_match: IfMatch,
    Json(change): Json<PolicyChange>,
) -> Result<Response, ApiError> {
    let change = model::PolicyChange::new(change.max_concurrency, change.criticality.map(Into::into))?;
    apply(&state, change, &if_match.optional()).await
}

/// Replaces the policy for calls to providers, for all replicas.
#[utoipa::path(put, path = "/api/v1/providers/policy", tag = "providers", operation_id = "replace_provider_policy", request_body = NewPolicy,
    params(("If-Match" = String, Header, description = "Version that the change follows: the `ETag` of a response, or `*`")),
    responses((status = 200, body = ProviderPolicyResponse), (status = 400, body = ErrorBody),
        (status = 412, body = ErrorBody, description = "The policy has another version"),
        (status = 428, body = ErrorBody, description = "The request lacks `If-Match`")))]
pub(super) async fn replace_policy(
    State(state): State<Arc<AppState>>,
    if_match: IfMatch,
    Json(policy): Json<NewPolicy>,
) -> Result<Response, ApiError> {
    let expected = if_match.required()?;
    let change = model::PolicyChange::new(Some(policy.max_concurrency), Some(policy.criticality.into()))?;
    apply(&state, change, &expected).await
}

async fn apply(
    state: &AppState,
    change: model::PolicyChange,
    expected: &ExpectedVersion,
) -> Result<Response, ApiError> {
    let Versioned { version, value } = state.change_policy(change, expected).await?;
    let body = ProviderPolicyResponse { policy: value.into() };
    Ok(([(ETAG, etag(version))], uncacheable(body)).into_response())
}
