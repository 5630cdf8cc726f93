//! An answer passed on as it comes.

use std::{pin::Pin, sync::atomic::Ordering, time::Instant};

use futures_util::{Stream, StreamExt, stream};
use phase6_chassis::{breaker::Outcome, deadline, telemetry::OutgoingCall};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    Ask, Attempt, Broker, NoAnswer,
    attempt::{Begun, outcome},
    why,
};
use crate::{
    gate::Place,
    money::Micros,
    provider::{CallFailed, Piece, ProviderId, Streaming, Usage},
    routing::Task,
};

/// Events that a client may be behind.
const AHEAD: usize = 64;

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
        let limit = self.inner.parts.answer_limit;
        // Only this caller waits for it, so its time is what counts.
        let due = Instant::now() + deadline::remaining().map_or(limit, |left| left.min(limit));
        let (task, criticality, candidates) = self.candidates(&ask);
        let (place, usable) = self.admitted(&candidates, criticality).await?;
        let begin = |id| self.begin_stream(id, &ask, task, due);
        let (begun, attempts) = self.first(usable, begin).await.map_err(|failed| {
            why(failed, || self.inner.parts.directory.why_none(&candidates, criticality))
        })?;
        let (id, begun, pieces) = begun;
        let (tell, told) = mpsc::channel(AHEAD);
        let passing = Passing {
            broker: self.clone(),
            id,
            pieces,
            begun,
            usage: None,
            received: 0,
            sent: ask.prompt.bytes(),
            max_tokens: ask.prompt.max_tokens,
            _place: place,
        };
        // In a task of its own: a reader that no longer reads cannot keep it from ending.
        self.inner.tasks.spawn(passing.pass(tell));
        Ok(Streamed {
            provider: id,
            model: self.inner.parts.directory.get(id).model().to_owned(),
            task,
            attempts,
            events: Box::pin(stream::unfold(told, |mut told| async {
                told.recv().await.map(|event| (event, told))
            })),
        })
    }

    async fn begin_stream(
        &self,
        id: ProviderId,
        ask: &Ask,
        task: Task,
        due: Instant,
    ) -> Result<(ProviderId, Begun, Streaming), Attempt> {
        let provider = self.inner.parts.directory.get(id);
        let client = self.inner.parts.directory.client();
        let mut begun = self.begin(id, ask, task, due).await?;
        let call = async |limit, span: Option<&OutgoingCall>| {
            client.stream(provider, &ask.prompt, limit, span).await
        };
        match begun.send(call).await {
            Ok(pieces) => Ok((id, begun, pieces)),
            Err(failed) => Err(begun.fail(&failed).await),
        }
    }
}

/// An answer that is being passed on.
struct Passing {
    broker: Broker,
    id: ProviderId,
    pieces: Streaming,
    begun: Begun,
    usage: Option<Usage>,
    /// Bytes of text so far.
    received: usize,
    sent: usize,
    max_tokens: u32,
    _place: Place,
}

impl Passing {
    /// Passes the answer on until it ends, the client goes away, or it takes too long. Whatever
    /// happens, its bill is settled and its place given back.
    async fn pass(mut self, tell: mpsc::Sender<StreamEvent>) {
        // What comes last has its room from the beginning: it is told also where a reader is slow.
        let Ok(last) = tell.clone().reserve_owned().await else { return };
        let limit = self.broker.inner.parts.stream_limit;
        let ended = tokio::select! {
            // Dropped in the middle, it is charged in full and says nothing about the provider.
            () = tell.closed() => return,
            ended = tokio::time::timeout(limit, self.pieces(&tell)) => ended,
        };
        last.send(match ended {
            Ok(Ok(())) => self.end().await,
            Ok(Err(failed)) => self.fail(&failed).await,
            Err(_) => {
                // Who was slow is not known, so that the breaker is told nothing.
                let message = format!("{}: the answer took longer than {} s", self.id, limit.as_secs());
                self.begun.bill.fail(&CallFailed::TooSlow).await;
                StreamEvent::Error { code: "provider_failed", message }
            }
        });
    }

    async fn pieces(&mut self, tell: &mpsc::Sender<StreamEvent>) -> Result<(), CallFailed> {
        while let Some(piece) = self.pieces.next().await {
            match piece? {
                Piece::Text(token) => {
                    self.received += token.len();
                    if tell.send(StreamEvent::Token { token }).await.is_err() {
                        // Nobody listens; `pass` is told so, too.
                        std::future::pending::<()>().await;
                    }
                }
                Piece::Usage(usage) => self.learn(usage),
                Piece::End => return Ok(()),
            }
        }
        Err(CallFailed::Broken)
    }

    /// Figures come in parts: what was sent at the beginning, what came back at the end.
    fn learn(&mut self, usage: Usage) {
        let before = self.usage.unwrap_or_default();
        self.usage =
            Some(Usage { input: usage.input.max(before.input), output: usage.output.max(before.output) });
    }

    /// What the call costs without figures: at most one token for each byte.
    fn guess(&self) -> Micros {
        let output = u32::try_from(self.received).unwrap_or(u32::MAX).min(self.max_tokens);
        self.broker.inner.parts.prices.of(self.id).at_most(self.sent, output)
    }

    async fn end(self) -> StreamEvent {
        let price = self.broker.inner.parts.prices.of(self.id);
        let estimated = price.is_guess(self.usage);
        let cost = if estimated { self.guess() } else { price.cost(self.usage) };
        let Begun { permit, mut bill, .. } = self.begun;
        permit.end(Outcome::Success);
        bill.usage = self.usage;
        let cost = bill.pay(cost, estimated, "success").await;
        StreamEvent::Done { usage: self.usage, cost, estimated }
    }

    async fn fail(self, failed: &CallFailed) -> StreamEvent {
        let message = format!("{}: {failed}", self.id);
        if self.received > 0 && !failed.may_be_charged() {
            // It was asked to wait in the middle of its work.
            let cost = self.guess();
            self.begun.permit.end(outcome(failed));
            self.begun.bill.pay(cost, cost > Micros::ZERO, "throttled").await;
        } else {
            self.begun.fail(failed).await;
        }
        StreamEvent::Error { code: "provider_failed", message }
    }
}
