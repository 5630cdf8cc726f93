//! One call to one provider, and its bill.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phase6_chassis::{
    breaker::{Outcome, Permit},
    telemetry::{Attributes, Exchange, OutgoingCall, SpanStatus},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Answer, Ask, Broker};
use crate::{
    ledger::{NotReserved, Reservation, Settlement},
    money::Micros,
    provider::{CallFailed, ProviderId, Usage, time_for},
    routing::Task,
};

/// A call is not begun with less time left.
const LEAST_TIME: Duration = Duration::from_secs(1);
/// Tries to record what a call cost, and the pause after the first one; it doubles.
const SETTLE_TRIES: u32 = 6;
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// An answer waits for so long for its cost to be recorded.
const SETTLE_WAIT: Duration = Duration::from_secs(2);

/// A provider that did not answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The provider.
    pub provider: String,
    /// Why it did not answer.
    pub reason: String,
    /// When to try it again, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    #[serde(skip)]
    pub(super) cause: Cause,
}

/// Whether a provider did not answer because of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It did.
    Provider,
    /// No server is there.
    Absent,
    /// The budget does not allow it.
    Exceeded,
    /// The spending cannot be recorded.
    NoRecords,
}

impl Attempt {
    pub(super) fn new(
        id: ProviderId,
        cause: Cause,
        reason: impl ToString,
        retry_after: Option<Duration>,
    ) -> Self {
        // Rounded up: who comes back after it is not too early.
        let seconds =
            |wait: Duration| wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        Self {
            provider: id.as_str().to_owned(),
            reason: reason.to_string(),
            retry_after_seconds: retry_after.map(seconds),
            cause,
        }
    }
}

/// How a call ended, for the breaker.
pub(super) fn outcome(failed: &CallFailed) -> Outcome {
    match failed {
        CallFailed::Throttled { retry_after } => Outcome::Throttled { retry_after: *retry_after },
        // It answers; that it refuses is about us, and an empty answer is an answer.
        CallFailed::Refused { .. } | CallFailed::Empty { .. } => Outcome::Success,
        CallFailed::Unreachable
        | CallFailed::Failed { .. }
        | CallFailed::TooSlow
        | CallFailed::Broken
        | CallFailed::Reported
        | CallFailed::Malformed => Outcome::Failure,
    }
}

/// The outcome of a call as one word of a closed set.
fn word(failed: &CallFailed) -> &'static str {
    match failed {
        CallFailed::Unreachable => "unreachable",
        CallFailed::Refused { .. } => "refused",
        CallFailed::Throttled { .. } => "throttled",
        CallFailed::Failed { .. } => "failed",
        CallFailed::TooSlow => "too-slow",
        CallFailed::Broken => "broken",
        CallFailed::Malformed => "malformed",
        CallFailed::Reported => "reported",
        CallFailed::Empty { .. } => "empty",
    }
}

/// The right to one call, and what it will cost.
pub(super) struct Begun {
    pub(super) permit: Permit,
    pub(super) bill: Bill,
    /// Its part of the trace.
    span: Option<OutgoingCall>,
    /// How long its caller still waits.
    left: Duration,
    id: ProviderId,
}

impl Begun {
    /// Makes the call: from here on it may cost something.
    pub(super) async fn send<T>(
        &mut self,
        call: impl AsyncFnOnce(Duration, Option<&OutgoingCall>) -> Result<T, CallFailed>,
    ) -> Result<T, CallFailed> {
        self.bill.sent = true;
        let result = call(self.left, self.span.as_ref()).await;
        if let Some(span) = self.span.take() {
            let status = if result.is_ok() { SpanStatus::Ok } else { SpanStatus::Error };
            span.end(status, || {
                let id = self.id.as_str();
                let mut attributes: Attributes =
                    vec![("http.request.method", "POST".into()), ("gen_ai.provider.name", id.into())];
                if let Err(failed) = &result {
                    attributes.push(("error.type", word(failed).into()));
                }
                (format!("POST {id}"), attributes)
            });
        }
        result
    }

    /// Settles a call that failed.
    pub(super) async fn fail(self, failed: &CallFailed) -> Attempt {
        self.permit.record(outcome(failed));
        self.bill.fail(failed).await
    }
}

impl Broker {
    pub(super) async fn attempt(
        &self,
        id: ProviderId,
        ask: &Ask,
        task: Task,
        due: Instant,
    ) -> Result<Answer, Attempt> {
        let provider = self.inner.parts.directory.get(id);
        let client = self.inner.parts.directory.client();
        let mut begun = self.begin(id, ask, task, due).await?;
        let most = time_for(ask.prompt.max_tokens);
        let call = async |left: Duration, span: Option<&OutgoingCall>| {
            client.complete(provider, &ask.prompt, left.min(most), span).await
        };
        match begun.send(call).await {
            Ok(completion) => {
                let Begun { permit, mut bill, .. } = begun;
                permit.record(Outcome::Success);
                bill.usage = completion.usage;
                let price = self.inner.parts.prices.of(id);
                let estimated = price.is_guess(completion.usage);
                let cost = bill.pay(price.cost(completion.usage), estimated, "success").await;
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
            Err(failed) => Err(begun.fail(&failed).await),
        }
    }

    /// Leave to call a provider before `due`, and the amount set aside for it.
    pub(super) async fn begin(
        &self,
        id: ProviderId,
        ask: &Ask,
        task: Task,
        due: Instant,
    ) -> Result<Begun, Attempt> {
        let provider = self.inner.parts.directory.get(id);
        if let Some(reason) = provider.absent(self.inner.parts.directory.client()).await {
            return Err(Attempt::new(id, Cause::Absent, reason, None));
        }
        let left = due.saturating_duration_since(Instant::now());
        if left < LEAST_TIME {
            return Err(Attempt::new(id, Cause::Provider, "no time was left to ask it", None));
        }
        let permit = provider.breaker().admit().map_err(|refused| {
            let wait = refused.retry_after();
            Attempt::new(id, Cause::Provider, refused, Some(wait))
        })?;
        let most = self.inner.parts.prices.of(id).at_most(ask.prompt.bytes(), ask.prompt.max_tokens);
        let bill = self.reserve(id, most, task).await?;
        let span = Exchange::current().map(|exchange| exchange.start_call());
        Ok(Begun { permit, bill, span, left, id })
    }

    /// Sets an amount aside. In a task of its own, so that it is done and the bill is made, or
    /// neither, also when nobody waits any more: the bill is then dropped, and gives the amount back.
    async fn reserve(&self, id: ProviderId, most: Micros, task: Task) -> Result<Bill, Attempt> {
        let broker = self.clone();
        let reserving = self.inner.tasks.spawn(async move {
            let now = Timestamp::now();
            match broker.inner.parts.ledger.reserve(id, most, now).await {
                Ok(reservation) => {
                    broker.spent();
                    Ok(Bill {
                        reservation: Some(reservation),
                        sent: false,
                        most,
                        model: broker.inner.parts.directory.get(id).model().to_owned(),
                        id,
                        task,
                        usage: None,
                        started: Instant::now(),
                        broker,
                    })
                }
                Err(NotReserved::Store(error)) => {
                    tracing::warn!(%error, "no amount can be set aside");
                    Err(Attempt::new(id, Cause::NoRecords, "the spending cannot be recorded", None))
                }
                Err(exceeded @ NotReserved::Exceeded { .. }) => {
                    let wait = exceeded.retry_after(now);
                    Err(Attempt::new(id, Cause::Exceeded, exceeded, Some(wait)))
                }
            }
        });
        reserving.await.unwrap_or_else(|error| {
            tracing::error!(%error, "setting an amount aside failed");
            Err(Attempt::new(id, Cause::NoRecords, "the spending cannot be recorded", None))
        })
    }
}

/// What a call will cost. Dropped unpaid (nobody waits for the call any more), the whole amount set
/// aside is charged if the call was sent, because the provider may have done the work; if it was
/// not, nothing is.
pub(super) struct Bill {
    broker: Broker,
    reservation: Option<Reservation>,
    sent: bool,
    most: Micros,
    model: String,
    id: ProviderId,
    task: Task,
    pub(super) usage: Option<Usage>,
    started: Instant,
}

impl Bill {
    /// Charges what the call did cost, at most what was set aside for it, and gives what was charged.
    /// The work is done also when nobody waits for it. If it cannot be done at all, the amount set
    /// aside is charged when it expires.
    pub(super) async fn pay(mut self, cost: Micros, estimated: bool, outcome: &'static str) -> Micros {
        let cost = self.at_most(cost);
        if let Some(settling) = self.settle(cost, estimated, outcome) {
            let _ = tokio::time::timeout(SETTLE_WAIT, settling).await;
        }
        cost
    }

    /// Charges a call that failed, if the provider may have done the work.
    pub(super) async fn fail(mut self, failed: &CallFailed) -> Attempt {
        let id = self.id;
        let retry_after = match failed {
            CallFailed::Throttled { retry_after } => *retry_after,
            _ => None,
        };
        if let CallFailed::Refused { status } = failed {
            self.broker.inner.parts.directory.get(id).refused(*status);
        }
        let (cost, estimated) = match failed {
            CallFailed::Empty { usage: Some(usage) } => {
                self.usage = Some(*usage);
                (self.broker.inner.parts.prices.of(id).cost(Some(*usage)), false)
            }
            _ if failed.may_be_charged() => (self.most, self.most > Micros::ZERO),
            _ => (Micros::ZERO, false),
        };
        self.pay(cost, estimated, word(failed)).await;
        Attempt::new(id, Cause::Provider, failed, retry_after)
    }

    /// The daily limit holds because no call costs more than was set aside for it. A provider that
    /// reports more than the request could cause is not believed.
    fn at_most(&self, cost: Micros) -> Micros {
        if cost > self.most {
            tracing::warn!(
                provider = %self.id, usage = ?self.usage, %cost, charged = %self.most,
                "provider reports more usage than the request can cause"
            );
        }
        cost.min(self.most)
    }

    fn settle(
        &mut self,
        cost: Micros,
        estimated: bool,
        outcome: &'static str,
    ) -> Option<tokio::task::JoinHandle<()>> {
        let reservation = self.reservation.take()?;
        let settlement = self.sent.then(|| Settlement {
            cost,
            estimated,
            usage: self.usage,
            model: std::mem::take(&mut self.model),
            task: self.task,
            outcome,
            took: self.started.elapsed(),
        });
        // Without a runtime there is nobody to do it, and the amount is charged when it expires.
        tokio::runtime::Handle::try_current().ok()?;
        Some(self.broker.inner.tasks.spawn(settle(self.broker.clone(), reservation, settlement)))
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let most = self.most;
        drop(self.settle(most, most > Micros::ZERO, "abandoned"));
    }
}

/// Records what a call cost; without a settlement it was not made. A database that is away for a
/// moment is tried again.
async fn settle(broker: Broker, reservation: Reservation, settlement: Option<Settlement>) {
    let mut pause = SETTLE_PAUSE;
    for attempt in 1..=SETTLE_TRIES {
        let done = match &settlement {
            Some(settlement) => {
                broker.inner.parts.ledger.settle(&reservation, settlement, Timestamp::now()).await
            }
            None => broker.inner.parts.ledger.release(&reservation).await,
        };
        match done {
            Ok(()) => break,
            Err(error) if error.is_unavailable() && attempt < SETTLE_TRIES => {
                tracing::warn!(%error, attempt, "a call could not be charged yet");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => {
                tracing::error!(%error, "a call could not be charged; its whole amount will be");
                break;
            }
        }
    }
    broker.spent();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It overflowed.
    #[test]
    fn any_wait_can_be_told() {
        let told =
            |wait| Attempt::new(ProviderId::OpenAi, Cause::Provider, "why", Some(wait)).retry_after_seconds;
        assert_eq!(told(Duration::MAX), Some(u64::MAX));
        assert_eq!(told(Duration::from_millis(1_001)), Some(2));
        assert_eq!(told(Duration::ZERO), Some(1));
    }
}
