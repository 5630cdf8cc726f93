//! Use case: answer a prompt as a stream.
//!
//! Until a provider has begun to answer, the next one can take its place. From then on a task relays
//! the answer until it ends, its reader goes away, or it takes too long. Guarantees that in each case
//! the call is charged and its permits are returned.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, stream};
use phase6_chassis::{breaker::Outcome, deadline, telemetry::OutgoingCall};
use tokio::sync::mpsc;

use super::{AnswerError, AppState, Permit, answer::Admission, call::PreparedCall, hedging::FirstSuccess};
use crate::{
    model::{AnswerRequest, FailedAttempt, MicroDollars, ProviderId, Task, Usage, spending::CallOutcome},
    providers::{CallError, Chunk, ChunkStream},
};

/// Maximum number of events that wait for a slow reader.
const BUFFERED_EVENTS: usize = 64;

/// Event of a streamed answer.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// More text.
    Token(String),
    /// The end of a complete answer.
    Done {
        /// Tokens, if the provider reported them.
        usage: Option<Usage>,
        /// Cost that the caller is charged.
        cost: MicroDollars,
        /// True if the cost is an estimate.
        estimated: bool,
    },
    /// The end of an incomplete answer.
    Failed(StreamError),
}

/// Failure of a streamed answer after it has begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The provider failed.
    #[error("{provider}: {error}")]
    Provider {
        /// Provider that began to answer.
        provider: ProviderId,
        /// Failure of the call.
        error: CallError,
    },
    /// The answer took too long, because of the provider or the reader.
    #[error("{provider}: the answer took longer than {} s", limit.as_secs())]
    TimedOut {
        /// Provider that began to answer.
        provider: ProviderId,
        /// Time limit of a stream.
        limit: Duration,
    },
}

/// A streamed answer that has begun.
pub struct StreamedAnswer {
    /// Provider that answers.
    pub provider: ProviderId,
    /// Model that answers.
    pub model: String,
    /// Kind of answer that the prompt asked for.
    pub task: Task,
    /// Providers that failed before this one began to answer.
    pub attempts: Vec<FailedAttempt>,
    /// Events, the last of which is [`StreamEvent::Done`] or [`StreamEvent::Failed`].
    pub events: Pin<Box<dyn Stream<Item = StreamEvent> + Send>>,
}

impl AppState {
    /// Begins a streamed answer. It is neither cached nor shared with identical requests.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`]. Later failures are events of the stream.
    pub async fn stream_answer(
        self: &Arc<Self>,
        request: AnswerRequest,
    ) -> Result<StreamedAnswer, AnswerError> {
        self.deduplicator.count_request();
        let limit = self.limits.answer;
        // The answer is for this caller alone, so its remaining time counts.
        let deadline = Instant::now() + deadline::remaining().map_or(limit, |remaining| remaining.min(limit));
        let route = self.route(&request);
        let Admission { permit, usable } = self.admit(&route).await?;
        let open_stream = |id| self.open_stream(id, &request, route.task, deadline);
        let FirstSuccess { value: open, failed } = self.first_success(usable, &route, open_stream).await?;
        let provider = open.provider;
        let (sender, receiver) = mpsc::channel(BUFFERED_EVENTS);
        let relay = Relay {
            state: Arc::clone(self),
            open,
            usage: None,
            received_bytes: 0,
            prompt_bytes: request.prompt.bytes(),
            max_tokens: request.prompt.max_tokens,
            _permit: permit,
        };
        // A separate task: a reader that no longer reads cannot keep the call from ending.
        self.kit.tasks.spawn(relay.run(sender));
        Ok(StreamedAnswer {
            provider,
            model: self.directory.get(provider).model().to_owned(),
            task: route.task,
            attempts: failed,
            events: Box::pin(stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|event| (event, receiver))
            })),
        })
    }

    async fn open_stream(
        self: &Arc<Self>,
        id: ProviderId,
        request: &AnswerRequest,
        task: Task,
        deadline: Instant,
    ) -> Result<OpenStream, FailedAttempt> {
        let provider = self.directory.get(id);
        let client = self.directory.client();
        let mut call = self.prepare_call(id, request, task, deadline).await?;
        let head = call.send(async |limit: Duration, span: Option<&OutgoingCall>| {
            client.stream(provider, &request.prompt, limit, span).await
        });
        match head.await {
            Ok(chunks) => Ok(OpenStream { provider: id, call, chunks }),
            Err(error) => Err(call.fail(&error).await),
        }
    }
}

/// A call whose provider has begun to answer.
struct OpenStream {
    provider: ProviderId,
    call: PreparedCall,
    chunks: ChunkStream,
}

/// Relay of a streamed answer to its reader.
struct Relay {
    state: Arc<AppState>,
    open: OpenStream,
    usage: Option<Usage>,
    /// Bytes of text so far.
    received_bytes: usize,
    prompt_bytes: usize,
    max_tokens: u32,
    _permit: Permit,
}

impl Relay {
    /// Relays the answer until it ends, its reader goes away, or it takes too long.
    async fn run(mut self, sender: mpsc::Sender<StreamEvent>) {
        // The slot of the last event is reserved in advance, so that a slow reader gets it too.
        let Ok(last) = sender.clone().reserve_owned().await else { return };
        let limit = self.state.limits.stream;
        let ended = tokio::select! {
            // Drops the call, which is then charged in full; the breaker records nothing.
            () = sender.closed() => return,
            ended = tokio::time::timeout(limit, self.relay(&sender)) => ended,
        };
        last.send(match ended {
            Ok(Ok(())) => self.complete().await,
            Ok(Err(error)) => self.fail(error).await,
            Err(_) => {
                // Either side may have been slow, so the breaker records nothing.
                let OpenStream { provider, call, .. } = self.open;
                call.charge.settle_failure(&CallError::TooSlow).await;
                StreamEvent::Failed(StreamError::TimedOut { provider, limit })
            }
        });
    }

    async fn relay(&mut self, sender: &mpsc::Sender<StreamEvent>) -> Result<(), CallError> {
        while let Some(chunk) = self.open.chunks.next().await {
            match chunk? {
                Chunk::Text(text) => {
                    self.received_bytes += text.len();
                    if sender.send(StreamEvent::Token(text)).await.is_err() {
                        // The reader has gone away, which `run` notices as well and ends the relay.
                        std::future::pending::<()>().await;
                    }
                }
                Chunk::Usage(usage) => self.usage = Some(self.usage.unwrap_or_default().merge(usage)),
                Chunk::End => return Ok(()),
            }
        }
        Err(CallError::Broken)
    }

    /// Estimates the cost of the call from the bytes so far: a token has at least one byte.
    fn estimated_cost(&self) -> MicroDollars {
        let output = u32::try_from(self.received_bytes).unwrap_or(u32::MAX).min(self.max_tokens);
        self.state.prices.of(self.open.provider).upper_bound(self.prompt_bytes, output)
    }

    async fn complete(self) -> StreamEvent {
        let price = self.state.prices.of(self.open.provider);
        let usage = self.usage;
        let estimated = price.is_estimate(usage);
        let cost = if estimated { self.estimated_cost() } else { price.cost(usage) };
        let PreparedCall { permit, mut charge, .. } = self.open.call;
        permit.record(Outcome::Success);
        charge.usage = usage;
        let cost = charge.settle(cost, estimated, CallOutcome::Success).await;
        StreamEvent::Done { usage, cost, estimated }
    }

    async fn fail(self, error: CallError) -> StreamEvent {
        let provider = self.open.provider;
        if self.received_bytes > 0 && !error.may_be_charged() {
            // The provider throttled the call after a part of the answer, which it may charge for.
            let cost = self.estimated_cost();
            let PreparedCall { permit, charge, .. } = self.open.call;
            permit.record(error.breaker_outcome());
            charge.settle(cost, cost > MicroDollars::ZERO, CallOutcome::Throttled).await;
        } else {
            self.open.call.fail(&error).await;
        }
        StreamEvent::Failed(StreamError::Provider { provider, error })
    }
}
