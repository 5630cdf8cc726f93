//! One call to one provider, and its bill.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phase6_chassis::{
    breaker::{Outcome, Permit},
    telemetry::{Exchange, Status},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Answer, Ask, Broker};
use crate::{
    ledger::{NotReserved, Reservation, Settlement},
    money::Micros,
    provider::{CallFailed, ProviderId, Usage},
    routing::Task,
};

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
    pub(super) exceeded: bool,
    #[serde(skip)]
    pub(super) no_records: bool,
}

impl Attempt {
    pub(super) fn new(id: ProviderId, reason: impl ToString, retry_after: Option<Duration>) -> Self {
        Self {
            provider: id.as_str().to_owned(),
            reason: reason.to_string(),
            retry_after_seconds: retry_after.map(|wait| wait.as_secs() + 1),
            exceeded: false,
            no_records: false,
        }
    }
}

/// How a call ended, for the breaker.
pub(super) fn outcome(failed: &CallFailed) -> Outcome {
    match failed {
        CallFailed::Throttled { retry_after } => Outcome::Throttled(*retry_after),
        // It answers; that it refuses is about us, and an empty answer is an answer.
        CallFailed::Refused { .. } | CallFailed::Empty => Outcome::Success,
        CallFailed::Unreachable
        | CallFailed::Failed { .. }
        | CallFailed::TooSlow
        | CallFailed::Broken
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
        CallFailed::Empty => "empty",
    }
}

impl Broker {
    pub(super) async fn attempt(&self, id: ProviderId, ask: &Ask, task: Task) -> Result<Answer, Attempt> {
        let provider = self.inner.directory.get(id);
        let (permit, mut bill) = self.begin(id, ask, task).await?;
        let span = Exchange::current().map(|exchange| exchange.call());
        let result = self.inner.directory.client().complete(provider, &ask.prompt).await;
        if let Some(span) = span {
            let status = if result.is_ok() { Status::Ok } else { Status::Error };
            span.end(status, || format!("POST {id}"));
        }
        match result {
            Ok(completion) => {
                permit.end(Outcome::Success);
                bill.usage = completion.usage;
                let estimated = completion.usage.is_none();
                let cost = self.inner.prices.of(id).cost(completion.usage);
                bill.pay(cost, estimated, "success").await;
                Ok(Answer {
                    text: completion.text,
                    provider: id.as_str().to_owned(),
                    model: provider.model().to_owned(),
                    task,
                    usage: completion.usage,
                    cost,
                    estimated: estimated && cost > Micros::ZERO,
                    attempts: vec![],
                })
            }
            Err(failed) => {
                permit.end(outcome(&failed));
                Err(bill.fail(&failed).await)
            }
        }
    }

    /// Leave to call a provider, and the amount set aside for it.
    pub(super) async fn begin(
        &self,
        id: ProviderId,
        ask: &Ask,
        task: Task,
    ) -> Result<(Permit, Bill), Attempt> {
        let provider = self.inner.directory.get(id);
        let permit = provider.breaker().admit();
        let permit = permit.map_err(|refused| Attempt::new(id, refused, Some(refused.retry_after())))?;
        let most = self.inner.prices.of(id).at_most(ask.prompt.bytes(), ask.prompt.max_tokens);
        match self.inner.ledger.reserve(id, most, Timestamp::now()).await {
            Ok(reservation) => {
                let bill = Bill {
                    broker: self.clone(),
                    reservation: Some(reservation),
                    most,
                    model: provider.model().to_owned(),
                    id,
                    task,
                    usage: None,
                    started: Instant::now(),
                };
                Ok((permit, bill))
            }
            Err(NotReserved::Store(error)) => {
                tracing::warn!(%error, "no amount can be set aside");
                let attempt = Attempt::new(id, "the spending cannot be recorded", None);
                Err(Attempt { no_records: true, ..attempt })
            }
            Err(exceeded @ NotReserved::Exceeded { .. }) => {
                Err(Attempt { exceeded: true, ..Attempt::new(id, exceeded, None) })
            }
        }
    }
}

/// What a call under way will cost. Dropped unpaid (nobody waits for the call any more), the whole
/// amount set aside is charged: the provider may have done the work.
pub(super) struct Bill {
    broker: Broker,
    reservation: Option<Reservation>,
    most: Micros,
    model: String,
    id: ProviderId,
    task: Task,
    pub(super) usage: Option<Usage>,
    started: Instant,
}

impl Bill {
    /// Charges what the call did cost. If that cannot be recorded now, the amount set aside is
    /// charged when it expires.
    pub(super) async fn pay(mut self, cost: Micros, estimated: bool, outcome: &'static str) {
        if let Some((reservation, settlement)) = self.settlement(cost, estimated, outcome) {
            settle(self.broker.clone(), reservation, settlement).await;
        }
    }

    /// Charges a call that failed, if the provider may have done the work.
    pub(super) async fn fail(self, failed: &CallFailed) -> Attempt {
        let id = self.id;
        let retry_after = match failed {
            CallFailed::Throttled { retry_after } => *retry_after,
            _ => None,
        };
        let cost = if failed.may_be_charged() { self.most } else { Micros::ZERO };
        self.pay(cost, cost > Micros::ZERO, word(failed)).await;
        Attempt::new(id, failed, retry_after)
    }

    fn settlement(
        &mut self,
        cost: Micros,
        estimated: bool,
        outcome: &'static str,
    ) -> Option<(Reservation, Settlement)> {
        let settlement = Settlement {
            cost,
            estimated,
            usage: self.usage,
            model: std::mem::take(&mut self.model),
            task: self.task,
            outcome,
            took: self.started.elapsed(),
        };
        self.reservation.take().map(|reservation| (reservation, settlement))
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let most = self.most;
        if let Some((reservation, settlement)) = self.settlement(most, most > Micros::ZERO, "abandoned")
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(settle(self.broker.clone(), reservation, settlement));
        }
    }
}

async fn settle(broker: Broker, reservation: Reservation, settlement: Settlement) {
    if let Err(error) = broker.inner.ledger.settle(&reservation, &settlement, Timestamp::now()).await {
        tracing::error!(%error, "a call could not be charged; its whole amount will be");
    }
    broker.spent();
}
