//! Spending of the day, recorded calls, and the export of everything.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use phase6_chassis::{ApiError, ErrorBody, Page, PageQuery, PageRequest, Principal, Query};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    cohorts::{BudgetPolicy, CohortMetrics},
    names::by_name,
    providers::ProviderQuality,
    response::briefly_cacheable,
};
use crate::{
    app::{AppState, tags},
    model::{
        self,
        spending::{self, CallPosition, CallRecord},
    },
};

/// Spending of a day.
#[derive(Serialize, ToSchema)]
pub(super) struct DailySpending {
    /// UTC date.
    date: String,
    /// Amount spent, in dollars.
    used: f64,
    /// Copy of `used`, under the name of an earlier version.
    spent: f64,
    /// Amount reserved for calls in flight, in dollars.
    reserved: f64,
    /// Daily limit, in dollars.
    limit: f64,
    /// Amount that can still be reserved, in dollars.
    remaining: f64,
    /// Amount spent, in percent of the limit.
    percent: f64,
    /// Number of calls by provider.
    calls: BTreeMap<String, i64>,
    /// True if at least 80 % of the limit is spent, but not all of it.
    warning: bool,
    /// True if the whole limit is spent.
    blocked: bool,
}

impl From<spending::DailySpending> for DailySpending {
    fn from(day: spending::DailySpending) -> Self {
        let used = day.amounts.used.dollars();
        Self {
            date: day.date.to_string(),
            used,
            spent: used,
            reserved: day.amounts.reserved.dollars(),
            limit: day.limit.dollars(),
            remaining: day.remaining().dollars(),
            percent: day.percent(),
            warning: day.is_warning(),
            blocked: day.is_blocked(),
            calls: day.calls,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct BudgetResponse {
    budget: DailySpending,
}

/// Spending of the tenant on the current UTC day: amounts spent, reserved and remaining.
///
/// All tenants together cannot exceed the limit, so calls can be refused before the tenant alone has reached it.
#[utoipa::path(get, path = "/api/v1/budget", tag = "budget",
    responses((status = 200, body = BudgetResponse), (status = 503, body = ErrorBody)))]
pub(super) async fn today(
    State(state): State<Arc<AppState>>,
    principal: Principal,
) -> Result<Response, ApiError> {
    let budget = state.spending_today(&principal.tenant).await?.into();
    Ok(briefly_cacheable(state.now(), &[tags::SPENDING], BudgetResponse { budget }))
}

/// A recorded call.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Call {
    /// ID of the call.
    id: String,
    /// Provider that was called.
    provider: String,
    /// Model that was called.
    model: String,
    /// Cost in dollars.
    cost: f64,
    /// True if the cost is an estimate.
    estimated: bool,
    /// Time of the call, in milliseconds since the Unix epoch.
    t: i64,
    /// `success`, or one word for the failure.
    outcome: String,
    /// Duration of the call, in milliseconds.
    latency_ms: i64,
}

impl From<CallRecord> for Call {
    fn from(call: CallRecord) -> Self {
        Self {
            id: call.id,
            provider: call.provider,
            model: call.model,
            cost: call.cost.dollars(),
            estimated: call.estimated,
            t: call.at_ms,
            outcome: call.outcome,
            latency_ms: call.latency_ms,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct HistoryResponse {
    #[serde(flatten)]
    page: Page<Call>,
    /// Copy of `items`, under the name of an earlier version.
    history: Vec<Call>,
}

/// Calls of the tenant, newest first.
#[utoipa::path(get, path = "/api/v1/budget/history", tag = "budget", params(PageQuery),
    responses((status = 200, body = HistoryResponse), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn history(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    Query(query): Query<PageQuery>,
) -> Result<Response, ApiError> {
    let PageRequest { limit, after } = query.check::<(i64, String)>()?;
    let after = after.map(|(at_ms, id)| CallPosition { at_ms, id });
    let calls = state.recent_calls(&principal.tenant, after, limit + 1).await?;
    let page =
        Page::new(calls.into_iter().map(Call::from).collect(), limit, |call| (call.t, call.id.clone()));
    let history = page.items.clone();
    Ok(briefly_cacheable(state.now(), &[tags::SPENDING], HistoryResponse { page, history }))
}

/// Prices of a provider.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Price {
    /// Price of a call whose tokens are not known, in dollars.
    per_call: f64,
    /// Price of a million input tokens, in dollars.
    input_per_million: f64,
    /// Price of a million output tokens, in dollars.
    output_per_million: f64,
}

impl From<model::Price> for Price {
    fn from(price: model::Price) -> Self {
        Self {
            per_call: price.per_call.dollars(),
            input_per_million: price.input_per_million.dollars(),
            output_per_million: price.output_per_million.dollars(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExportResponse {
    /// Prices by provider.
    #[schema(value_type = Object)]
    providers: BTreeMap<&'static str, Price>,
    cohort_budgets: BudgetPolicy,
    /// Metrics of the 1000 cohorts that have spent most, by their identifiers.
    cohort_metrics: BTreeMap<String, CohortMetrics>,
    /// Performance of each provider at each kind of task.
    provider_stats: Vec<ProviderQuality>,
}

/// Prices, cohorts and performance of providers in one response.
#[utoipa::path(get, path = "/api/v1/budget/export", tag = "budget",
    responses((status = 200, body = ExportResponse), (status = 503, body = ErrorBody)))]
pub(super) async fn export(
    State(state): State<Arc<AppState>>,
    principal: Principal,
) -> Result<Response, ApiError> {
    let export = state.export(&principal.tenant).await?;
    let cohorts = export.cohorts.into_iter();
    let response = ExportResponse {
        providers: by_name(|id| export.prices.of(id).into()),
        cohort_budgets: BudgetPolicy::default(),
        cohort_metrics: cohorts.map(|metrics| (metrics.cohort_id.clone(), metrics.into())).collect(),
        provider_stats: export.quality.into_iter().map(Into::into).collect(),
    };
    Ok(briefly_cacheable(state.now(), &[tags::SPENDING, tags::COHORTS], response))
}
