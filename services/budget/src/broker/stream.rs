//! An answer passed on as it comes.

use std::{pin::Pin, sync::atomic::Ordering};

use futures_util::{Stream, StreamExt};
use phase6_chassis::breaker::{Outcome, Permit};
use serde::Serialize;

use super::{
    Ask, Attempt, Broker, NoAnswer,
    attempt::{Bill, outcome},
    why,
};
use crate::{
    gate::Place,
    money::Micros,
    provider::{CallFailed, Piece, ProviderId, Streaming, Usage},
    routing::Task,
};

/// What a client is told of an answer on its way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum StreamEvent {
    /// More text.
    #[serde(rename_all = "camelCase")]
    Token {
        /// The text.
        token: String,
    },
    /// The answer is complete.
    #[serde(rename_all = "camelCase")]
    Done {
        /// Tokens, if the provider said.
        usage: Option<Usage>,
        /// What it cost, in dollars.
        cost: Micros,
        /// Whether the cost is our estimate.
        estimated: bool,
    },
    /// It will not be complete.
    #[serde(rename_all = "camelCase")]
    Error {
        /// A word for programs.
        code: &'static str,
        /// A sentence for people.
        message: String,
    },
}

/// An answer on its way.
pub struct Streamed {
    /// Who gives it.
    pub provider: ProviderId,
    /// With which model.
    pub model: String,
    /// What kind of answer the prompt was taken to want.
    pub task: Task,
    /// Providers that were tried before.
    pub attempts: Vec<Attempt>,
    /// What comes.
    pub events: Pin<Box<dyn Stream<Item = StreamEvent> + Send>>,
}

impl Broker {
    /// Begins an answer that is passed on as it comes. Until a provider has begun, another one can
    /// take its place.
    ///
    /// # Errors
    ///
    /// See [`NoAnswer`].
    pub async fn stream(&self, ask: Ask) -> Result<Streamed, NoAnswer> {
        self.inner.asked.fetch_add(1, Ordering::Relaxed);
        let (task, _, candidates) = self.candidates(&ask);
        let (place, candidates) = self.admitted(&candidates).await?;
        let mut failed = Vec::new();
        let count = candidates.len();
        for (number, id) in candidates.into_iter().enumerate() {
            let (permit, bill) = match self.begin(id, &ask, task).await {
                Ok(begun) => begun,
                Err(attempt) => {
                    failed.push(attempt);
                    continue;
                }
            };
            let provider = self.inner.directory.get(id);
            let beginning = self.inner.directory.client().stream(provider, &ask.prompt);
            let last = number + 1 == count;
            let begun = if last {
                beginning.await
            } else {
                let limited = tokio::time::timeout(self.inner.hedge_after, beginning);
                limited.await.unwrap_or(Err(CallFailed::TooSlow))
            };
            match begun {
                Err(error) => {
                    permit.end(outcome(&error));
                    failed.push(bill.fail(&error).await);
                }
                Ok(pieces) => {
                    let passing = Passing {
                        broker: self.clone(),
                        id,
                        pieces,
                        permit: Some(permit),
                        bill: Some(bill),
                        usage: None,
                        received: 0,
                        sent: ask.prompt.bytes(),
                        _place: place,
                    };
                    return Ok(Streamed {
                        provider: id,
                        model: provider.model().to_owned(),
                        task,
                        attempts: failed,
                        events: Box::pin(futures_util::stream::unfold(passing, Passing::next)),
                    });
                }
            }
        }
        Err(why(failed))
    }
}

/// An answer that is being passed on. Dropped in the middle (the client went away), its bill is
/// charged in full.
struct Passing {
    broker: Broker,
    id: ProviderId,
    pieces: Streaming,
    permit: Option<Permit>,
    bill: Option<Bill>,
    usage: Option<Usage>,
    /// Bytes of text so far.
    received: usize,
    sent: usize,
    _place: Place,
}

impl Passing {
    async fn next(mut self) -> Option<(StreamEvent, Self)> {
        // Without a bill the last event has been told.
        self.bill.as_ref()?;
        loop {
            match self.pieces.next().await {
                Some(Ok(Piece::Text(token))) => {
                    self.received += token.len();
                    return Some((StreamEvent::Token { token }, self));
                }
                Some(Ok(Piece::Usage(usage))) => self.learn(usage),
                Some(Ok(Piece::End)) => {
                    let event = self.end().await;
                    return Some((event, self));
                }
                Some(Err(error)) => {
                    let event = self.fail(&error).await;
                    return Some((event, self));
                }
                None => {
                    let event = self.fail(&CallFailed::Broken).await;
                    return Some((event, self));
                }
            }
        }
    }

    /// Figures come in parts: what was sent at the beginning, what came back at the end.
    fn learn(&mut self, usage: Usage) {
        let before = self.usage.unwrap_or_default();
        self.usage =
            Some(Usage { input: usage.input.max(before.input), output: usage.output.max(before.output) });
    }

    async fn end(&mut self) -> StreamEvent {
        if let Some(permit) = self.permit.take() {
            permit.end(Outcome::Success);
        }
        let price = self.broker.inner.prices.of(self.id);
        let estimated = self.usage.is_none() && !price.is_free();
        // Without figures: at most one token for each byte.
        let guess = Usage { input: self.sent as u64, output: self.received as u64 };
        let cost = price.cost(Some(self.usage.unwrap_or(guess)));
        if let Some(mut bill) = self.bill.take() {
            bill.usage = self.usage;
            bill.pay(cost, estimated, "success").await;
        }
        StreamEvent::Done { usage: self.usage, cost, estimated }
    }

    async fn fail(&mut self, error: &CallFailed) -> StreamEvent {
        if let Some(permit) = self.permit.take() {
            permit.end(outcome(error));
        }
        if let Some(bill) = self.bill.take() {
            bill.fail(error).await;
        }
        StreamEvent::Error { code: "provider_failed", message: format!("{}: {error}", self.id) }
    }
}
