//! Providers: which can be used, what they cost, and calls to them.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use phase6_chassis::{
    ApiError, ErrorBody, Json, Query, RequestContext, cache::Invalidation, telemetry::Exchange,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Shelf, briefly_shared, momentary, shared};
use crate::{
    broker::{Answer, Ask, DedupState, NoAnswer, Source, StreamEvent},
    ledger::Quality,
    money::Micros,
    policy::{PolicyChange, ProviderPolicy},
    provider::{Prompt, ProviderId, ProviderStatus},
    routing::{Criticality, order, task_of},
};

/// Largest prompt and system text together, in bytes.
const LARGEST_PROMPT: usize = 200_000;

#[derive(Serialize, ToSchema)]
pub(crate) struct StatusAnswer {
    status: BTreeMap<&'static str, ProviderStatus>,
}

/// Which providers can be used now, and what is missing where one cannot.
#[utoipa::path(get, path = "/api/v1/providers/status", tag = "providers", operation_id = "provider_status", responses((status = 200, body = StatusAnswer)))]
pub(crate) async fn status(State(shelf): State<Arc<Shelf>>) -> Response {
    briefly_shared("providers", StatusAnswer { status: shelf.directory.status().await })
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ProviderPolicyAnswer {
    policy: ProviderPolicy,
}

/// How calls are made.
#[utoipa::path(get, path = "/api/v1/providers/policy", tag = "providers", operation_id = "provider_policy", responses((status = 200, body = ProviderPolicyAnswer)))]
pub(crate) async fn policy(State(shelf): State<Arc<Shelf>>) -> Response {
    briefly_shared("provider-policy", ProviderPolicyAnswer { policy: shelf.policies.get() })
}

/// Changes how calls are made, for all replicas.
#[utoipa::path(post, path = "/api/v1/providers/policy", tag = "providers", operation_id = "change_provider_policy", request_body = PolicyChange,
    responses((status = 200, body = ProviderPolicyAnswer), (status = 400, body = ErrorBody)))]
pub(crate) async fn change_policy(
    State(shelf): State<Arc<Shelf>>,
    Json(change): Json<PolicyChange>,
) -> Result<Response, ApiError> {
    let policy = shelf.policies.change(change).await?;
    shelf.kit.cache.invalidate(Invalidation::Tag("provider-policy".into()));
    Ok(momentary(ProviderPolicyAnswer { policy }))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BurstRequest {
    /// The question, at most 200000 bytes.
    prompt: String,
    /// What frames it.
    system: Option<String>,
    /// For how many seconds the answer may be given again to the same caller, from 0 (never) to
    /// 86400. Default 3600. Not together with `stream`.
    ttl_seconds: Option<u64>,
    /// How much quality counts; by default as the policy says.
    criticality: Option<Criticality>,
    /// Only this provider.
    provider: Option<ProviderId>,
    /// Most tokens to come back, from 1 to 8192. Default 1024.
    #[serde(default = "max_tokens")]
    max_tokens: u32,
    /// Pass the answer on as it comes, as server-sent events. Such an answer is a call of its own: it
    /// is not kept, and neither a kept one nor another caller's takes its place.
    #[serde(default)]
    stream: bool,
}

const fn max_tokens() -> u32 {
    1024
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BurstAnswer {
    /// Whether it was kept from before.
    cached: bool,
    /// Whether another caller's call brought it. It then costs nothing: that caller's answer shows
    /// the cost.
    joined: bool,
    #[serde(flatten)]
    answer: Answer,
    policy: ProviderPolicy,
    dedup: DedupState,
    trace_id: Option<String>,
}

/// Asks a provider, within the daily budget; the same question is not paid for twice. With `stream`
/// the answer comes as server-sent events: `meta`, any number of `token`, then `done` or `error`;
/// such an answer is a call of its own and is not kept.
#[utoipa::path(post, path = "/api/v1/providers/burst", tag = "providers", request_body = BurstRequest,
    responses(
        (status = 200, description = "The answer; events with `stream`",
            content((BurstAnswer = "application/json"), (String = "text/event-stream"))),
        (status = 400, description = "A field is not usable", body = ErrorBody),
        (status = 402, description = "The daily budget does not allow it", body = ErrorBody),
        (status = 429, description = "Too many requests", body = ErrorBody),
        (status = 503, description = "No provider is set up or answers", body = ErrorBody)))]
pub(crate) async fn burst(
    State(shelf): State<Arc<Shelf>>,
    context: Option<axum::Extension<RequestContext>>,
    Json(request): Json<BurstRequest>,
) -> Result<Response, ApiError> {
    let owner = context.and_then(|context| context.0.caller.owner.clone());
    let (ask, streamed) = ask(request, owner.as_deref().unwrap_or_default())?;
    if streamed {
        return stream_burst(&shelf, ask).await;
    }
    let (answer, source) = shelf.broker.answer(ask).await?;
    Ok(momentary(BurstAnswer {
        cached: source == Source::Kept,
        joined: source == Source::Joined,
        answer,
        policy: shelf.policies.get(),
        dedup: shelf.broker.dedup(),
        trace_id: Exchange::current().map(|exchange| exchange.context().trace_id.to_string()),
    }))
}

fn ask(request: BurstRequest, tenant: &str) -> Result<(Ask, bool), ApiError> {
    let refuse = |field: &str, value: &dyn std::fmt::Display, accepted: &str| {
        let message = format!("field `{field}` is {value}; accepted: {accepted}");
        Err(ApiError::bad_request("invalid_body", message))
    };
    if request.prompt.trim().is_empty() {
        return refuse("prompt", &"empty", "a text");
    }
    let prompt = Prompt { text: request.prompt, system: request.system, max_tokens: request.max_tokens };
    if prompt.bytes() > LARGEST_PROMPT {
        let size = format!("{} bytes with its system text", prompt.bytes());
        return refuse("prompt", &size, "at most 200000 bytes");
    }
    if !(1..=8192).contains(&prompt.max_tokens) {
        return refuse("maxTokens", &prompt.max_tokens, "a whole number from 1 to 8192");
    }
    let ttl = request.ttl_seconds.unwrap_or(3600);
    if ttl > 86_400 {
        return refuse("ttlSeconds", &ttl, "a whole number from 0 to 86400");
    }
    if request.stream && request.ttl_seconds.is_some() {
        return refuse("ttlSeconds", &ttl, "nothing together with `stream`, whose answers are not kept");
    }
    let ask = Ask {
        tenant: tenant.to_owned(),
        prompt,
        criticality: request.criticality,
        only: request.provider,
        ttl: Duration::from_secs(ttl),
    };
    Ok((ask, request.stream))
}

/// The answer as server-sent events: `meta`, any number of `token`, then `done` or `error`.
async fn stream_burst(shelf: &Shelf, ask: Ask) -> Result<Response, ApiError> {
    let streamed = shelf.broker.stream(ask).await?;
    let meta = json!({
        "provider": streamed.provider,
        "model": streamed.model,
        "task": streamed.task,
        "attempts": streamed.attempts,
        "policy": shelf.policies.get(),
    });
    let first = stream::once(async move { event("meta", &meta) });
    let rest = streamed.events.map(|told| {
        let name = match &told {
            StreamEvent::Token { .. } => "token",
            StreamEvent::Done { .. } => "done",
            StreamEvent::Error { .. } => "error",
        };
        event(name, &told)
    });
    let events = first.chain(rest).map(Ok::<_, Infallible>);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

pub(super) fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default())
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CostsAnswer {
    /// Dollars for a call whose tokens are not known.
    #[schema(value_type = Object)]
    prices: BTreeMap<&'static str, Micros>,
    /// Dollars for a million tokens.
    #[schema(value_type = Object)]
    tokens: Map<String, Value>,
}

/// What providers cost.
#[utoipa::path(get, path = "/api/v1/providers/costs", tag = "providers", responses((status = 200, body = CostsAnswer)))]
pub(crate) async fn costs(State(shelf): State<Arc<Shelf>>) -> Response {
    let prices = ProviderId::ALL.iter().map(|id| (id.as_str(), shelf.prices.of(*id).per_call)).collect();
    let token = |id: &ProviderId| {
        let price = shelf.prices.of(*id);
        let shown =
            json!({"inputPerMillion": price.input_per_million, "outputPerMillion": price.output_per_million});
        (id.as_str().to_owned(), shown)
    };
    shared("prices", CostsAnswer { prices, tokens: ProviderId::ALL.iter().map(token).collect() })
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RecommendQuery {
    /// A prompt whose task decides; without one the cheapest provider is recommended.
    prompt: Option<String>,
    /// How much quality counts; by default as the policy says.
    criticality: Option<Criticality>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Recommendation {
    recommended: ProviderId,
    /// Dollars for a call.
    #[schema(value_type = f64)]
    cost: Micros,
    reason: String,
}

/// The provider to use: the cheapest one, or the best one for a prompt.
#[utoipa::path(get, path = "/api/v1/providers/recommend", tag = "providers", params(RecommendQuery),
    responses((status = 200, body = Recommendation), (status = 503, body = ErrorBody)))]
pub(crate) async fn recommend(
    State(shelf): State<Arc<Shelf>>,
    Query(query): Query<RecommendQuery>,
) -> Result<Response, ApiError> {
    let usable = shelf.directory.usable().await;
    let ready = |id: &ProviderId| shelf.directory.get(*id).breaker().would_admit();
    let criticality = query.criticality.unwrap_or_else(|| shelf.policies.get().criticality);
    let (candidates, chosen, reason) = match &query.prompt {
        Some(prompt) => {
            let task = task_of(prompt);
            let candidates = order(task, criticality);
            let best = candidates.iter().copied().find(|id| usable.contains(id) && ready(id));
            let reason = format!("first usable for a {} task at {criticality} criticality", task.as_str());
            (candidates, best, reason)
        }
        None => {
            let cheapest = usable.into_iter().filter(ready).min_by_key(|id| shelf.prices.of(*id).per_call);
            (&ProviderId::ALL[..], cheapest, "cheapest usable".to_owned())
        }
    };
    let Some(recommended) = chosen else {
        return Err(NoAnswer::NoProvider { how: shelf.directory.why_none(candidates, criticality) }.into());
    };
    let cost = shelf.prices.of(recommended).per_call;
    Ok(briefly_shared("providers", Recommendation { recommended, cost, reason }))
}

/// What the tracer, breakers, cache, limiter, database and de-duplicator show.
#[utoipa::path(get, path = "/api/v1/providers/resilience-status", tag = "providers", responses((status = 200, body = Object)))]
pub(crate) async fn resilience_status(State(shelf): State<Arc<Shelf>>) -> Response {
    momentary(shelf.kit.observability())
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LearningAnswer {
    /// How each provider has done at each kind of task.
    provider_quality: Vec<Quality>,
    /// Calls that are remembered.
    outcomes: i64,
    /// The provider and task with the highest share of successes, out of those with ten calls.
    #[schema(value_type = Option<Object>)]
    top_performer: Option<Value>,
}

/// How providers have done, by kind of task.
#[utoipa::path(get, path = "/api/v1/system/learning-stats", tag = "providers",
    responses((status = 200, body = LearningAnswer), (status = 503, body = ErrorBody)))]
pub(crate) async fn learning_stats(State(shelf): State<Arc<Shelf>>) -> Result<Response, ApiError> {
    let quality = shelf.ledger.quality().await?;
    let better = |a: &&Quality, b: &&Quality| {
        a.success_rate.total_cmp(&b.success_rate).then(b.avg_latency.total_cmp(&a.avg_latency))
    };
    let top = quality.iter().filter(|quality| quality.outcomes >= 10).max_by(better);
    let top_performer = top.map(|quality| json!({"provider": quality.provider, "task": quality.task}));
    let outcomes = quality.iter().map(|quality| quality.outcomes).sum();
    Ok(briefly_shared("spending", LearningAnswer { provider_quality: quality, outcomes, top_performer }))
}
