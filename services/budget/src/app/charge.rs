//! The charge of one call: an amount reserved before the call and settled after it.
//!
//! Guarantees that a reservation is settled or released exactly once, even if its caller goes away: the
//! work runs in tasks that the stop of the service waits for. What the database does not accept
//! within several attempts is charged in full when the reservation expires.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use phase6_chassis::identity::Name;
use tokio::task::JoinHandle;

use super::{AppState, tags};
use crate::{
    model::{
        FailedAttempt, FailureCause, MicroDollars, ProviderId, Task, Usage,
        spending::{CallOutcome, Reservation, Settlement},
    },
    providers::CallError,
    store::ReserveError,
};

/// Maximum number of attempts to settle a charge.
const SETTLE_ATTEMPTS: u32 = 6;
/// Pause after the first attempt; it doubles with each further one.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// Maximum time that an answer waits for its charge to be settled.
const SETTLE_WAIT: Duration = Duration::from_secs(2);

/// A reserved amount whose call has not been settled.
///
/// Dropped without a settlement, because nobody waits for the call any more, the whole amount is
/// charged if the call was sent, as the provider may have done the work. Otherwise it is released.
pub(super) struct PendingCharge {
    /// Tokens, as far as the provider has reported them.
    pub(super) usage: Option<Usage>,
    state: Arc<AppState>,
    /// `None` after the settlement has begun.
    reservation: Option<Reservation>,
    reserved: MicroDollars,
    is_sent: bool,
    provider: ProviderId,
    task: Task,
    started: Instant,
}

impl AppState {
    /// Reserves an amount for a call.
    ///
    /// Runs in a separate task, so that a caller who goes away leaves either no reservation or one
    /// that belongs to a [`PendingCharge`], whose drop releases it.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        tenant: &Name,
        id: ProviderId,
        amount: MicroDollars,
        task: Task,
    ) -> Result<PendingCharge, FailedAttempt> {
        let state = Arc::clone(self);
        let tenant = tenant.clone();
        let reserving = self.kit.tasks.spawn(async move {
            let now = state.now();
            match state.ledger.reserve(&tenant, id, amount, now).await {
                Ok(reservation) => {
                    state.invalidate(Some(&tenant), tags::SPENDING);
                    Ok(PendingCharge {
                        usage: None,
                        state,
                        reservation: Some(reservation),
                        reserved: amount,
                        is_sent: false,
                        provider: id,
                        task,
                        started: Instant::now(),
                    })
                }
                Err(ReserveError::Store(error)) => {
                    tracing::warn!(%error, "failed to reserve an amount");
                    Err(store_unavailable(id))
                }
                Err(ReserveError::BudgetExceeded(exceeded)) => {
                    let wait = exceeded.retry_after(now);
                    Err(FailedAttempt::new(id, FailureCause::BudgetExceeded, exceeded, Some(wait)))
                }
            }
        });
        reserving.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the task of a reservation failed");
            Err(store_unavailable(id))
        })
    }
}

fn store_unavailable(id: ProviderId) -> FailedAttempt {
    FailedAttempt::new(id, FailureCause::StoreUnavailable, "the spending cannot be recorded", None)
}

impl PendingCharge {
    /// Notes that the call is sent, so that it may cost money.
    pub(super) fn mark_sent(&mut self) {
        self.is_sent = true;
    }

    /// Charges the cost of the call, at most the reserved amount, and returns what is charged.
    ///
    /// Waits for the database for two seconds at most; the settlement continues after that.
    pub(super) async fn settle(
        mut self,
        cost: MicroDollars,
        estimated: bool,
        outcome: CallOutcome,
    ) -> MicroDollars {
        let cost = self.cap(cost);
        if let Some(settling) = self.begin_settlement(cost, estimated, outcome) {
            let _ = tokio::time::timeout(SETTLE_WAIT, settling).await;
        }
        cost
    }

    /// Charges a call that failed: the reported tokens if there are any, otherwise the whole amount
    /// if the provider may have done the work, otherwise nothing.
    pub(super) async fn settle_failure(mut self, error: &CallError) -> FailedAttempt {
        let id = self.provider;
        let retry_after = match error {
            CallError::Throttled { retry_after } => *retry_after,
            _ => None,
        };
        if let CallError::Refused { status } = error {
            self.state.directory.get(id).record_refusal(*status);
        }
        let (cost, estimated) = match error {
            CallError::Empty { usage: Some(usage) } => {
                self.usage = Some(*usage);
                (self.state.prices.of(id).cost(Some(*usage)), false)
            }
            _ if error.may_be_charged() => (self.reserved, self.reserved > MicroDollars::ZERO),
            _ => (MicroDollars::ZERO, false),
        };
        self.settle(cost, estimated, error.outcome()).await;
        FailedAttempt::new(id, FailureCause::Provider, error, retry_after)
    }

    /// Limits a cost to the reserved amount, which the daily limit relies on. A provider cannot
    /// charge more than its request can cause.
    fn cap(&self, cost: MicroDollars) -> MicroDollars {
        if cost > self.reserved {
            tracing::warn!(
                provider = %self.provider, usage = ?self.usage, %cost, charged = %self.reserved,
                "provider reports more usage than the request can cause"
            );
        }
        cost.min(self.reserved)
    }

    /// Starts the task that settles the charge, or releases the amount of a call that was not sent.
    fn begin_settlement(
        &mut self,
        cost: MicroDollars,
        estimated: bool,
        outcome: CallOutcome,
    ) -> Option<JoinHandle<()>> {
        let reservation = self.reservation.take()?;
        let settlement = self.is_sent.then(|| Settlement {
            cost,
            estimated,
            usage: self.usage,
            model: self.state.directory.get(self.provider).model().to_owned(),
            task: self.task,
            outcome,
            latency: self.started.elapsed(),
        });
        // Without a runtime nothing can run the task, and the amount is charged when it expires.
        tokio::runtime::Handle::try_current().ok()?;
        let state = Arc::clone(&self.state);
        Some(self.state.kit.tasks.spawn(async move { state.finish_charge(reservation, settlement).await }))
    }
}

impl Drop for PendingCharge {
    fn drop(&mut self) {
        let reserved = self.reserved;
        let is_estimate = reserved > MicroDollars::ZERO;
        drop(self.begin_settlement(reserved, is_estimate, CallOutcome::Abandoned));
    }
}

impl AppState {
    /// Settles a reservation, or releases it if there is no settlement. Retries while the database is
    /// unavailable.
    async fn finish_charge(&self, reservation: Reservation, settlement: Option<Settlement>) {
        let mut pause = SETTLE_PAUSE;
        for attempt in 1..=SETTLE_ATTEMPTS {
            let result = match &settlement {
                Some(settlement) => self.ledger.settle(&reservation, settlement, self.now()).await,
                None => self.ledger.release(&reservation).await,
            };
            match result {
                Ok(()) => break,
                Err(error) if error.is_unavailable() && attempt < SETTLE_ATTEMPTS => {
                    tracing::warn!(%error, attempt, "failed to settle a charge; retrying");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => {
                    tracing::error!(%error, "failed to settle a charge; its reservation will be charged in full");
                    break;
                }
            }
        }
        self.invalidate(Some(&reservation.tenant), tags::SPENDING);
    }
}
