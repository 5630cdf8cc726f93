//! Providers: their status, prices and performance, and the one to use.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use phase6_chassis::{ApiError, ErrorBody, Principal, Query, breaker};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    names::{Criticality, Provider, by_name},
    response::{briefly_cacheable, cacheable, uncacheable},
};
use crate::{
    app::{AppState, tags},
    model::{ProviderId, spending},
    providers,
};

/// Status of a provider.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProviderStatus {
    /// True if calls can be sent to the provider now.
    available: bool,
    /// False if the provider is disabled by its settings.
    enabled: bool,
    /// Model that is called.
    model: String,
    /// Reason for which the provider is not available, and missing settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Problem of the provider's settings that its operator should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    /// State of the circuit breaker.
    #[schema(value_type = Object)]
    circuit_breaker: breaker::Snapshot,
}

impl From<providers::ProviderStatus> for ProviderStatus {
    fn from(status: providers::ProviderStatus) -> Self {
        Self {
            available: status.available,
            enabled: status.enabled,
            model: status.model,
            reason: status.reason,
            warning: status.warning,
            circuit_breaker: status.breaker,
        }
    }
}

/// Returns statuses by the names of their providers.
pub(super) fn status_by_name(
    status: BTreeMap<ProviderId, providers::ProviderStatus>,
) -> BTreeMap<&'static str, ProviderStatus> {
    status.into_iter().map(|(id, status)| (id.as_str(), status.into())).collect()
}

#[derive(Serialize, ToSchema)]
pub(super) struct ProviderStatusResponse {
    status: BTreeMap<&'static str, ProviderStatus>,
}

/// Status of every provider: availability, and missing settings.
#[utoipa::path(get, path = "/api/v1/providers/status", tag = "providers", operation_id = "provider_status",
    responses((status = 200, body = ProviderStatusResponse)))]
pub(super) async fn status(State(state): State<Arc<AppState>>) -> Response {
    let status = status_by_name(state.provider_status().await);
    briefly_cacheable(state.now(), &[tags::PROVIDERS], ProviderStatusResponse { status })
}

#[derive(Serialize, ToSchema)]
pub(super) struct CostsResponse {
    /// Price of a call whose tokens are not known, by provider, in dollars.
    #[schema(value_type = Object)]
    prices: BTreeMap<&'static str, f64>,
    /// Prices of a million tokens, by provider, in dollars.
    #[schema(value_type = Object)]
    tokens: BTreeMap<&'static str, TokenPrices>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenPrices {
    input_per_million: f64,
    output_per_million: f64,
}

/// Prices of every provider.
#[utoipa::path(get, path = "/api/v1/providers/costs", tag = "providers", responses((status = 200, body = CostsResponse)))]
pub(super) async fn costs(State(state): State<Arc<AppState>>) -> Response {
    let response = CostsResponse {
        prices: by_name(|id| state.prices().of(id).per_call.dollars()),
        tokens: by_name(|id| {
            let price = state.prices().of(id);
            TokenPrices {
                input_per_million: price.input_per_million.dollars(),
                output_per_million: price.output_per_million.dollars(),
            }
        }),
    };
    cacheable(&[tags::PRICES], response)
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RecommendQuery {
    /// Prompt whose task decides. Without a prompt, the least expensive provider is recommended.
    prompt: Option<String>,
    /// Weight of quality against price. Defaults to that of the provider policy.
    criticality: Option<Criticality>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RecommendResponse {
    /// Recommended provider.
    recommended: Provider,
    /// Price of a call, in dollars.
    cost: f64,
    /// Reason of the recommendation.
    reason: String,
}

/// Recommends a provider: the preferred one for a prompt, or the least expensive one.
#[utoipa::path(get, path = "/api/v1/providers/recommend", tag = "providers", params(RecommendQuery),
    responses((status = 200, body = RecommendResponse), (status = 503, body = ErrorBody)))]
pub(super) async fn recommend(
    State(state): State<Arc<AppState>>,
    Query(query): Query<RecommendQuery>,
) -> Result<Response, ApiError> {
    let criticality = query.criticality.map(Into::into);
    let recommendation = state.recommend(query.prompt.as_deref(), criticality).await?;
    let response = RecommendResponse {
        recommended: recommendation.provider.into(),
        cost: recommendation.cost.dollars(),
        reason: recommendation.reason,
    };
    Ok(briefly_cacheable(state.now(), &[tags::PROVIDERS], response))
}

/// State of the tracer, breakers, cache, limiter, database and deduplicator.
#[utoipa::path(get, path = "/api/v1/providers/resilience-status", tag = "providers", responses((status = 200, body = Object)))]
pub(super) async fn resilience_status(State(state): State<Arc<AppState>>) -> Response {
    uncacheable(state.kit().observability())
}

/// Performance of a provider at one kind of task.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProviderQuality {
    /// Provider.
    provider: String,
    /// Kind of task.
    task: String,
    /// Number of recorded calls.
    outcomes: i64,
    /// Share of successful calls, from 0 to 1.
    success_rate: f64,
    /// Mean latency of the successful calls, in milliseconds.
    avg_latency: f64,
    /// Mean cost of a call, in dollars.
    avg_cost: f64,
}

impl From<spending::ProviderQuality> for ProviderQuality {
    fn from(quality: spending::ProviderQuality) -> Self {
        Self {
            provider: quality.provider,
            task: quality.task,
            outcomes: quality.calls,
            success_rate: quality.success_rate,
            avg_latency: quality.mean_latency_ms,
            avg_cost: quality.mean_cost_dollars,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LearningStatsResponse {
    /// Performance of each provider at each kind of task.
    provider_quality: Vec<ProviderQuality>,
    /// Number of recorded calls.
    outcomes: i64,
    /// Provider and task with the highest success rate, among those with at least ten calls.
    #[schema(value_type = Option<Object>)]
    top_performer: Option<TopPerformer>,
}

#[derive(Serialize)]
struct TopPerformer {
    provider: String,
    task: String,
}

/// Performance of providers by kind of task.
#[utoipa::path(get, path = "/api/v1/system/learning-stats", tag = "providers",
    responses((status = 200, body = LearningStatsResponse), (status = 503, body = ErrorBody)))]
pub(super) async fn learning_stats(
    State(state): State<Arc<AppState>>,
    principal: Principal,
) -> Result<Response, ApiError> {
    let stats = state.learning_stats(&principal.tenant).await?;
    let response = LearningStatsResponse {
        provider_quality: stats.quality.into_iter().map(Into::into).collect(),
        outcomes: stats.calls,
        top_performer: stats.top_performer.map(|top| TopPerformer { provider: top.provider, task: top.task }),
    };
    Ok(briefly_cacheable(state.now(), &[tags::SPENDING], response))
}
