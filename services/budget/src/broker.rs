//! Calls to providers: kept answers, one call for many who ask the same, a place, an amount set
//! aside, a breaker, the next provider when one fails or is slow.
//!
//! ```text
//! ask -> kept? -> under way? -> gate -> candidates (task, criticality, usable)
//!                                          |  first
//!                                          v
//!                     breaker -> reserve -> call -> settle -> answer
//!                        ^                   |
//!                        '-- next: it failed, or was silent too long (hedge) --'
//! ```
//!
//! A paid call is never made twice for the same ask at the same time with the same provider; a
//! second provider is asked only when the first has failed or has been silent for a while, and a
//! paid one never beside a free one. A call costs at most what was set aside for it. Work that was
//! begun is finished and settled also when nobody waits any more; a stop waits for it.

mod attempt;
mod outcome;
mod stream;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use phase6_chassis::{
    Kit,
    cache::{Cache, Invalidation, Role, SingleFlight},
    telemetry::Exchange,
};
use serde::Serialize;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use self::outcome::{from_kept, why};
pub use self::{
    attempt::Attempt,
    outcome::{Answer, NoAnswer, Source},
    stream::{StreamEvent, Streamed},
};
use crate::{
    answers::{Answers, Kept, Question},
    gate::{Gate, Place},
    ledger::Ledger,
    money::Micros,
    policy::Policies,
    price::PriceList,
    provider::{Directory, Prompt, ProviderId},
    routing::{Criticality, Task, order, task_of},
};

/// Longest wait for a place.
const PLACE: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who asks; answers are kept apart by it.
    pub tenant: String,
    /// The prompt.
    pub prompt: Prompt,
    /// How much quality counts; none: as the policy says.
    pub criticality: Option<Criticality>,
    /// Only this provider.
    pub only: Option<ProviderId>,
    /// For how long the answer may be given again; zero: it may not.
    pub ttl: Duration,
}

/// What the de-duplicator shows.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DedupState {
    /// Different questions under way.
    pub pending_requests: usize,
    /// Questions asked since the start.
    pub total_requests: u64,
    /// Of them: answered from what was kept.
    pub kept_hits: u64,
    /// Of them: answered by another one's call.
    pub joined: u64,
    /// Share answered without a call of their own, from 0 to 1.
    pub deduplication_hit_rate: f64,
}

type Shared = Arc<Result<Answer, NoAnswer>>;

/// Makes calls. Clones are handles to the same one.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    flights: Arc<SingleFlight<Question, Shared>>,
    responses: Cache,
    /// Settlements and calls under way, which a stop waits for.
    tasks: TaskTracker,
    asked: AtomicU64,
    kept: AtomicU64,
    joined: AtomicU64,
}

/// What a broker works with.
pub struct Parts {
    /// The providers.
    pub directory: Directory,
    /// What they cost.
    pub prices: PriceList,
    /// The spending.
    pub ledger: Ledger,
    /// How many calls at a time.
    pub gate: Gate,
    /// How calls are made.
    pub policies: Policies,
    /// Answers that are kept.
    pub answers: Answers,
    /// How long a provider may be silent before a second one is asked.
    pub hedge_after: Duration,
    /// Longest time for an answer, or until a stream begins, from the question on.
    pub answer_limit: Duration,
    /// Longest time for a whole stream.
    pub stream_limit: Duration,
}

impl Broker {
    /// A broker.
    pub fn new(parts: Parts, kit: &Kit) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts,
                flights: Arc::default(),
                responses: kit.cache.clone(),
                tasks: kit.tasks.clone(),
                asked: AtomicU64::new(0),
                kept: AtomicU64::new(0),
                joined: AtomicU64::new(0),
            }),
        }
    }

    /// What the de-duplicator shows.
    pub fn dedup(&self) -> DedupState {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (total, kept, joined) = (get(&self.inner.asked), get(&self.inner.kept), get(&self.inner.joined));
        DedupState {
            pending_requests: self.inner.flights.len(),
            total_requests: total,
            kept_hits: kept,
            joined,
            deduplication_hit_rate: if total == 0 { 0.0 } else { (kept + joined) as f64 / total as f64 },
        }
    }

    /// Answers a question.
    ///
    /// # Errors
    ///
    /// See [`NoAnswer`].
    pub async fn answer(&self, ask: Ask) -> Result<(Answer, Source), NoAnswer> {
        let inner = &self.inner;
        inner.asked.fetch_add(1, Ordering::Relaxed);
        let due = Instant::now() + inner.parts.answer_limit;
        let (task, criticality, candidates) = self.candidates(&ask);
        let models = candidates.iter().map(|id| (*id, inner.parts.directory.get(*id).model()));
        let question = Question::new(&ask.tenant, &ask.prompt, task, criticality, models);
        if !ask.ttl.is_zero()
            && let Ok(Some(kept)) = inner.parts.answers.get(&question, Timestamp::now()).await
        {
            inner.kept.fetch_add(1, Ordering::Relaxed);
            return Ok((from_kept(kept, task), Source::Kept));
        }
        match inner.flights.join(question.clone()) {
            Role::Follower(follower) => {
                let result = follower.wait().await.ok_or(NoAnswer::Lost)?;
                inner.joined.fetch_add(1, Ordering::Relaxed);
                // Who asked first has paid: costs of answers add up to what was charged.
                let answer = (*result).clone()?;
                Ok((Answer { cost: Micros::ZERO, estimated: false, ..answer }, Source::Joined))
            }
            Role::Leader(leader) => {
                // In a task of its own: others may wait for it when this caller has gone away.
                let broker = self.clone();
                let work = async move {
                    let result = broker.call(&ask, task, criticality, &candidates, due).await;
                    if let Ok(answer) = &result
                        && !ask.ttl.is_zero()
                    {
                        broker.keep(&question, answer, ask.ttl).await;
                    }
                    let result = Arc::new(result);
                    leader.complete(Arc::clone(&result));
                    result
                };
                let task = match Exchange::current() {
                    Some(exchange) => inner.tasks.spawn(exchange.scope(work)),
                    None => inner.tasks.spawn(work),
                };
                match task.await {
                    Ok(result) => (*result).clone().map(|answer| (answer, Source::Called)),
                    Err(error) => {
                        tracing::error!(%error, "the work on an answer failed");
                        Err(NoAnswer::Lost)
                    }
                }
            }
        }
    }

    /// What the prompt wants, how much quality counts, and whom to try in which order.
    fn candidates(&self, ask: &Ask) -> (Task, Criticality, Vec<ProviderId>) {
        let task = task_of(&ask.prompt.text);
        let criticality = ask.criticality.unwrap_or_else(|| self.inner.parts.policies.get().criticality);
        let candidates = match ask.only {
            Some(only) => vec![only],
            None => order(task, criticality).to_vec(),
        };
        (task, criticality, candidates)
    }

    async fn keep(&self, question: &Question, answer: &Answer, ttl: Duration) {
        let kept = Kept {
            provider: answer.provider.clone(),
            model: answer.model.clone(),
            text: answer.text.clone(),
        };
        if let Err(error) = self.inner.parts.answers.put(question, &kept, ttl, Timestamp::now()).await {
            tracing::warn!(%error, "an answer could not be kept");
        }
    }

    /// A place, and those of the candidates that may be asked.
    async fn admitted(
        &self,
        candidates: &[ProviderId],
        criticality: Criticality,
    ) -> Result<(Place, Vec<ProviderId>), NoAnswer> {
        let directory = &self.inner.parts.directory;
        let usable = |id: &ProviderId| directory.get(*id).unusable().is_none();
        let usable: Vec<_> = candidates.iter().copied().filter(usable).collect();
        if usable.is_empty() {
            return Err(NoAnswer::NoProvider { how: directory.why_none(candidates, criticality) });
        }
        let place = self
            .inner
            .parts
            .gate
            .enter(PLACE)
            .await
            .map_err(|why| NoAnswer::Busy { what: why.to_string() })?;
        Ok((place, usable))
    }

    /// Tries the candidates until one answers.
    async fn call(
        &self,
        ask: &Ask,
        task: Task,
        criticality: Criticality,
        candidates: &[ProviderId],
        due: Instant,
    ) -> Result<Answer, NoAnswer> {
        let (_place, usable) = self.admitted(candidates, criticality).await?;
        let attempt = |id| self.attempt(id, ask, task, due);
        match self.first(usable, attempt).await {
            Ok((answer, attempts)) => Ok(Answer { attempts, ..answer }),
            Err(failed) => Err(why(failed, || self.inner.parts.directory.why_none(candidates, criticality))),
        }
    }

    /// The first success of attempts at providers, one after the other, and what failed before. While
    /// one is silent for long, the next one is tried beside it; the slower one is given up.
    async fn first<T, F: Future<Output = Result<T, Attempt>>>(
        &self,
        candidates: Vec<ProviderId>,
        attempt: impl Fn(ProviderId) -> F,
    ) -> Result<(T, Vec<Attempt>), Vec<Attempt>> {
        let free = |id: ProviderId| self.inner.parts.prices.of(id).is_free();
        let named = |id| {
            let attempt = attempt(id);
            async move { (id, attempt.await) }
        };
        let mut queue = VecDeque::from(candidates);
        let mut running = FuturesUnordered::new();
        let mut asked: Vec<ProviderId> = Vec::new();
        let mut failed = Vec::new();
        loop {
            if running.is_empty() {
                let Some(next) = queue.pop_front() else { return Err(failed) };
                running.push(named(next));
                asked = vec![next];
            }
            // Nobody is made to pay because what costs nothing is slow.
            let hedge = match asked[..] {
                [only] => queue.iter().position(|next| !free(only) || free(*next)),
                _ => None,
            };
            tokio::select! {
                Some((id, result)) = running.next() => match result {
                    Ok(success) => return Ok((success, failed)),
                    Err(attempt) => {
                        failed.push(attempt);
                        asked.retain(|other| *other != id);
                    }
                },
                () = tokio::time::sleep(self.inner.parts.hedge_after), if hedge.is_some() => {
                    if let Some(next) = hedge.and_then(|at| queue.remove(at)) {
                        running.push(named(next));
                        asked.push(next);
                    }
                }
            }
        }
    }

    /// What was spent has changed: answers about it are no longer right.
    fn spent(&self) {
        self.inner.responses.invalidate(Invalidation::Tag("spending".into()));
    }
}
