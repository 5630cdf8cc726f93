//! One call to one provider: prepared, sent, and settled.
//!
//! ```text
//! prepare: local server running? -> time left? -> breaker admits? -> amount reserved?
//! send:    the call, as a part of the trace of the request
//! end:     outcome to the breaker, cost to the ledger
//! ```
//!
//! Guarantees that a call is sent only with its upper bound reserved, and that it costs at most that.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use phase6_chassis::{
    breaker::{Outcome, Permit as BreakerPermit},
    telemetry::{Attributes, Exchange, OutgoingCall, SpanStatus},
};

use super::{AppState, charge::PendingCharge};
use crate::{
    model::{Answer, AnswerRequest, FailedAttempt, FailureCause, ProviderId, Task, spending::CallOutcome},
    providers::{CallError, answer_time_limit},
};

/// Least remaining time with which a call is sent.
const MIN_TIME: Duration = Duration::from_secs(1);

/// A call that may be sent: admitted by the breaker, with its upper bound reserved.
///
/// Dropping it cancels the call: the breaker records nothing, and the amount is charged in full if
/// the call was sent, or released if not.
pub(super) struct PreparedCall {
    pub(super) permit: BreakerPermit,
    pub(super) charge: PendingCharge,
    provider: ProviderId,
    span: Option<OutgoingCall>,
    /// Time for which the caller still waits.
    time_left: Duration,
}

impl PreparedCall {
    /// Sends the call. From here on it may cost money.
    pub(super) async fn send<T>(
        &mut self,
        call: impl AsyncFnOnce(Duration, Option<&OutgoingCall>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        self.charge.mark_sent();
        let result = call(self.time_left, self.span.as_ref()).await;
        if let Some(span) = self.span.take() {
            let status = if result.is_ok() { SpanStatus::Ok } else { SpanStatus::Error };
            span.end(status, || {
                let provider = self.provider.as_str();
                let mut attributes: Attributes =
                    vec![("http.request.method", "POST".into()), ("gen_ai.provider.name", provider.into())];
                if let Err(error) = &result {
                    attributes.push(("error.type", error.outcome().as_str().into()));
                }
                (format!("POST {provider}"), attributes)
            });
        }
        result
    }

    /// Ends a call that failed: reports it to the breaker and charges what the provider may charge.
    pub(super) async fn fail(self, error: &CallError) -> FailedAttempt {
        self.permit.record(error.breaker_outcome());
        self.charge.settle_failure(error).await
    }
}

impl AppState {
    /// Calls a provider for a whole answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        id: ProviderId,
        request: &AnswerRequest,
        task: Task,
        deadline: Instant,
    ) -> Result<Answer, FailedAttempt> {
        let provider = self.directory.get(id);
        let client = self.directory.client();
        let mut call = self.prepare_call(id, request, task, deadline).await?;
        let limit = answer_time_limit(request.prompt.max_tokens);
        let completed = call.send(async |time_left: Duration, span: Option<&OutgoingCall>| {
            client.complete(provider, &request.prompt, time_left.min(limit), span).await
        });
        match completed.await {
            Ok(completion) => {
                let PreparedCall { permit, mut charge, .. } = call;
                permit.record(Outcome::Success);
                charge.usage = completion.usage;
                let price = self.prices.of(id);
                let estimated = price.is_estimate(completion.usage);
                let cost = price.cost(completion.usage);
                let cost = charge.settle(cost, estimated, CallOutcome::Success).await;
                Ok(Answer {
                    text: completion.text,
                    provider: id.as_str().to_owned(),
                    model: provider.model().to_owned(),
                    task,
                    usage: completion.usage,
                    cost,
                    estimated,
                    attempts: vec![],
                })
            }
            Err(error) => Err(call.fail(&error).await),
        }
    }

    /// Prepares a call that is to end before `deadline`.
    pub(super) async fn prepare_call(
        self: &Arc<Self>,
        id: ProviderId,
        request: &AnswerRequest,
        task: Task,
        deadline: Instant,
    ) -> Result<PreparedCall, FailedAttempt> {
        let provider = self.directory.get(id);
        if let Some(reason) = provider.not_running_reason(self.directory.client()).await {
            return Err(FailedAttempt::new(id, FailureCause::NotRunning, reason, None));
        }
        let time_left = deadline.saturating_duration_since(Instant::now());
        if time_left < MIN_TIME {
            return Err(FailedAttempt::new(id, FailureCause::Provider, "no time was left to call it", None));
        }
        let permit = provider.breaker().admit().map_err(|refused| {
            let wait = refused.retry_after();
            FailedAttempt::new(id, FailureCause::Provider, refused, Some(wait))
        })?;
        let prompt = &request.prompt;
        let upper_bound = self.prices.of(id).upper_bound(prompt.bytes(), prompt.max_tokens);
        let charge = self.reserve(&request.tenant, id, upper_bound, task).await?;
        let span = Exchange::current().map(|exchange| exchange.start_call());
        Ok(PreparedCall { permit, charge, provider: id, span, time_left })
    }
}
