//! Deduplication: identical requests that are in flight at the same time share one call.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use phase6_chassis::{
    cache::{Role, SingleFlight},
    telemetry::Exchange,
};
use tokio_util::task::TaskTracker;

use super::AnswerError;
use crate::model::{Answer, AnswerSource, CacheKey, MicroDollars};

type SharedResult = Arc<Result<Answer, AnswerError>>;

/// Deduplicator of identical requests. Clones share it.
#[derive(Clone, Default)]
pub struct Deduplicator {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    in_flight: Arc<SingleFlight<CacheKey, SharedResult>>,
    requests: AtomicU64,
    cached: AtomicU64,
    joined: AtomicU64,
}

/// Counts of requests since the start of the service.
#[derive(Clone, Copy, Debug)]
pub struct Deduplication {
    /// Distinct requests in flight now.
    pub in_flight: usize,
    /// All requests for answers.
    pub requests: u64,
    /// Requests that were answered from the cache.
    pub cached: u64,
    /// Requests that were answered by the call of an identical one.
    pub joined: u64,
}

impl Deduplication {
    /// Share of requests that were answered without a separate call, from 0 to 1.
    pub fn hit_rate(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { (self.cached + self.joined) as f64 / self.requests as f64 }
    }
}

impl Deduplicator {
    /// Counts a request.
    pub(super) fn count_request(&self) {
        self.inner.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that is answered from the cache.
    pub(super) fn count_cached(&self) {
        self.inner.cached.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts.
    pub fn counts(&self) -> Deduplication {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Deduplication {
            in_flight: self.inner.in_flight.len(),
            requests: get(&self.inner.requests),
            cached: get(&self.inner.cached),
            joined: get(&self.inner.joined),
        }
    }

    /// Returns the result of the request with this key that is in flight, or else that of `work`.
    ///
    /// `work` runs in a task of `tasks`: it is completed even if its caller goes away, because other
    /// callers may wait for it.
    pub(super) async fn run(
        &self,
        key: CacheKey,
        tasks: &TaskTracker,
        work: impl Future<Output = Result<Answer, AnswerError>> + Send + 'static,
    ) -> Result<(Answer, AnswerSource), AnswerError> {
        match self.inner.in_flight.join(key) {
            Role::Follower(waiting) => {
                let result = waiting.wait().await.ok_or(AnswerError::Lost)?;
                self.inner.joined.fetch_add(1, Ordering::Relaxed);
                // The first caller is charged, so that the costs of all answers add up to what was
                // spent.
                let answer = Answer { cost: MicroDollars::ZERO, estimated: false, ..(*result).clone()? };
                Ok((answer, AnswerSource::Joined))
            }
            Role::Leader(leader) => {
                let work = async move {
                    let result = Arc::new(work.await);
                    leader.complete(Arc::clone(&result));
                    result
                };
                let task = match Exchange::current() {
                    Some(exchange) => tasks.spawn(exchange.scope(work)),
                    None => tasks.spawn(work),
                };
                match task.await {
                    Ok(result) => (*result).clone().map(|answer| (answer, AnswerSource::Called)),
                    Err(error) => {
                        tracing::error!(%error, "the task of a request failed");
                        Err(AnswerError::Lost)
                    }
                }
            }
        }
    }
}
