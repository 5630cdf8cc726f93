//! Answers to prompts, whole or as a stream of server-sent events.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use phase6_chassis::{
    ApiError, ErrorBody, IdempotencyHeader, Idempotent, Principal, identity::Name, telemetry::Exchange,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    answer_events,
    names::{Criticality, Provider, Task},
    policy::ProviderPolicy,
};
use crate::{
    app::{AnswerError, AppState, Deduplication},
    model::{self, AnswerRequest, AnswerSource, InvalidValue, Prompt},
};

/// Time for which a claim of an idempotency key outlasts its answer.
const CLAIM_MARGIN: Duration = Duration::from_secs(30);
/// TTL of a cached answer unless the request states one, in seconds.
const DEFAULT_TTL: u64 = 3600;
/// Largest accepted TTL of a cached answer, in seconds.
const MAX_TTL: u64 = 86_400;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BurstRequest {
    /// Prompt, at most 200000 bytes together with the system prompt.
    prompt: String,
    /// System prompt.
    system: Option<String>,
    /// Time in seconds for which the answer may be cached for all callers of the tenant, from 0 (not
    /// cached) to 86400. Default 3600. Not allowed together with `stream`. With an idempotency key the
    /// response is stored in any case.
    ttl_seconds: Option<u64>,
    /// Weight of quality against price. Defaults to that of the provider policy.
    criticality: Option<Criticality>,
    /// The only provider to call. By default the service selects one.
    provider: Option<Provider>,
    /// Maximum number of output tokens, from 1 to 8192. Default 1024.
    #[serde(default = "default_max_tokens")]
    max_tokens: u32,
    /// Stream the answer as server-sent events. A streamed answer is always a separate call: it is
    /// neither cached nor shared with identical requests.
    #[serde(default)]
    stream: bool,
}

const fn default_max_tokens() -> u32 {
    1024
}

impl BurstRequest {
    /// Checks the values and returns the request of `tenant`.
    fn check(self, tenant: Name) -> Result<AnswerRequest, InvalidValue> {
        let prompt = Prompt::new(self.prompt, self.system, self.max_tokens)?;
        let ttl = self.ttl_seconds.unwrap_or(DEFAULT_TTL);
        if ttl > MAX_TTL {
            let accepted = format!("a whole number from 0 to {MAX_TTL}");
            return Err(InvalidValue::new("ttlSeconds", ttl, accepted));
        }
        if self.stream && self.ttl_seconds.is_some() {
            let accepted = "no value together with `stream`, because streamed answers are not cached";
            return Err(InvalidValue::new("ttlSeconds", ttl, accepted));
        }
        Ok(AnswerRequest {
            tenant,
            prompt,
            criticality: self.criticality.map(Into::into),
            provider: self.provider.map(Into::into),
            ttl: Duration::from_secs(ttl),
        })
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BurstResponse {
    /// True if the answer comes from the cache.
    cached: bool,
    /// True if the answer comes from an identical request that was in flight. It then costs nothing:
    /// the response to that request shows the cost.
    joined: bool,
    #[serde(flatten)]
    answer: Answer,
    policy: ProviderPolicy,
    dedup: DeduplicationState,
    /// Trace ID of the request.
    trace_id: Option<String>,
}

/// Answer of a model.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Text of the answer.
    text: String,
    /// Provider that answered.
    provider: String,
    /// Model that answered.
    model: String,
    /// Kind of answer that the prompt asked for.
    task: Task,
    /// Tokens, if the provider reported them.
    usage: Option<Usage>,
    /// Cost in dollars.
    cost: f64,
    /// True if the cost is an estimate, because the provider did not report tokens.
    estimated: bool,
    /// Providers that failed before this one answered.
    attempts: Vec<FailedAttempt>,
}

/// Tokens that a call used.
#[derive(Serialize, ToSchema)]
pub(super) struct Usage {
    /// Input tokens.
    input: u64,
    /// Output tokens.
    output: u64,
}

/// A provider that did not answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailedAttempt {
    /// Provider that was called.
    provider: &'static str,
    /// Reason of the failure.
    reason: String,
    /// Time in seconds after which to call the provider again, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

/// Deduplication of requests since the start of the service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeduplicationState {
    /// Distinct requests in flight.
    pending_requests: usize,
    /// All requests for answers.
    total_requests: u64,
    /// Requests that were answered from the cache.
    cached_hits: u64,
    /// Requests that were answered by the call of an identical request.
    joined: u64,
    /// Share of requests that were answered without a separate call, from 0 to 1.
    deduplication_hit_rate: f64,
}

impl From<model::Answer> for Answer {
    fn from(answer: model::Answer) -> Self {
        Self {
            text: answer.text,
            provider: answer.provider,
            model: answer.model,
            task: answer.task.into(),
            usage: answer.usage.map(Into::into),
            cost: answer.cost.dollars(),
            estimated: answer.estimated,
            attempts: answer.attempts.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<model::Usage> for Usage {
    fn from(usage: model::Usage) -> Self {
        Self { input: usage.input, output: usage.output }
    }
}

impl From<model::FailedAttempt> for FailedAttempt {
    fn from(attempt: model::FailedAttempt) -> Self {
        Self {
            provider: attempt.provider.as_str(),
            reason: attempt.reason,
            retry_after_seconds: attempt.retry_after_seconds,
        }
    }
}

impl From<Deduplication> for DeduplicationState {
    fn from(counts: Deduplication) -> Self {
        Self {
            pending_requests: counts.in_flight,
            total_requests: counts.requests,
            cached_hits: counts.cached,
            joined: counts.joined,
            deduplication_hit_rate: counts.hit_rate(),
        }
    }
}

/// Answers a prompt by calling a provider within the daily budget.
///
/// Identical prompts are not paid for twice. With `stream`, the answer is a stream of server-sent
/// events: `meta`, any number of `token`, then `done` or `error`.
#[utoipa::path(post, path = "/api/v1/providers/burst", tag = "providers", request_body = BurstRequest,
    params(IdempotencyHeader),
    responses(
        (status = 200, description = "The answer; with `stream`, server-sent events",
            content((BurstResponse = "application/json"), (String = "text/event-stream"))),
        (status = 400, description = "A field has an unusable value", body = ErrorBody),
        (status = 402, description = "The daily budget does not allow the call", body = ErrorBody),
        (status = 409, description = "A request with this idempotency key is in progress", body = ErrorBody),
        (status = 422, description = "The idempotency key was used for another request", body = ErrorBody),
        (status = 429, description = "Too many requests", body = ErrorBody),
        (status = 503, description = "No provider is usable, or every provider failed", body = ErrorBody)))]
pub(super) async fn burst(
    State(state): State<Arc<AppState>>,
    principal: Principal,
    Idempotent { body: request, idempotency }: Idempotent<BurstRequest>,
) -> Result<Response, ApiError> {
    let is_stream = request.stream;
    let request = request.check(principal.tenant)?;
    if is_stream {
        if idempotency.has_key() {
            let message = "a stream cannot be repeated; accepted: `Idempotency-Key` without `stream`";
            return Err(ApiError::bad_request("invalid_body", message));
        }
        let answer = state.stream_answer(request).await?;
        return Ok(answer_events::response(answer, state.policy().into()));
    }
    let answering = {
        let state = Arc::clone(&state);
        async move {
            let (answer, source) = state.answer(request).await?;
            Ok::<_, AnswerError>(BurstResponse {
                cached: source == AnswerSource::Cached,
                joined: source == AnswerSource::Joined,
                answer: answer.into(),
                policy: state.policy().into(),
                dedup: state.deduplicator().counts().into(),
                trace_id: Exchange::current().map(|exchange| exchange.context().trace_id.to_string()),
            })
        }
    };
    idempotency.once(state.kit(), state.answer_limit() + CLAIM_MARGIN, answering).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_values_outside_of_their_range() {
        let check = |body: &str| {
            let request: BurstRequest = serde_json::from_str(body).unwrap();
            request.check("tenant".parse().unwrap())
        };
        for (body, field) in [
            (r#"{"prompt": " "}"#, "prompt"),
            (r#"{"prompt": "x", "maxTokens": 0}"#, "maxTokens"),
            (r#"{"prompt": "x", "ttlSeconds": 86401}"#, "ttlSeconds"),
            (r#"{"prompt": "x", "ttlSeconds": 60, "stream": true}"#, "ttlSeconds"),
        ] {
            assert_eq!(check(body).unwrap_err().field, field, "{body}");
        }
        let request = check(r#"{"prompt": "x"}"#).unwrap();
        assert_eq!((request.ttl, request.prompt.max_tokens), (Duration::from_hours(1), 1024));
    }
}
