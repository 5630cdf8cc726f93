//! Use case: answer a prompt.
//!
//! A prompt is answered from the cache, by an identical request in flight, or by a call. Guarantees
//! that identical requests cause one call at a time, and that a call that has begun is completed and
//! charged even if its caller goes away; the stop of the service waits for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    AnswerError, AppState, Permit,
    failure::summarize_failure,
    hedging::{FirstSuccess, first_success},
};
use crate::model::{
    Answer, AnswerRequest, AnswerSource, CacheKey, Criticality, FailedAttempt, ProviderId, Task,
    routing::candidates,
};

/// Maximum time that a request waits for permission to call.
const QUEUE_LIMIT: Duration = Duration::from_secs(10);

/// Routing of a request.
#[derive(Clone)]
pub(super) struct Route {
    /// Kind of answer that the prompt asks for.
    pub(super) task: Task,
    /// Criticality of the request or of the policy.
    pub(super) criticality: Criticality,
    /// Providers to call, in order of preference.
    pub(super) candidates: Vec<ProviderId>,
}

/// Admission of a request.
pub(super) struct Admission {
    /// Permission to call, held until the answer is complete.
    pub(super) permit: Permit,
    /// Candidates to call. A probe may still exclude local servers.
    pub(super) usable: Vec<ProviderId>,
}

impl AppState {
    /// Answers a prompt.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`].
    pub async fn answer(
        self: &Arc<Self>,
        request: AnswerRequest,
    ) -> Result<(Answer, AnswerSource), AnswerError> {
        self.deduplicator.count_request();
        let deadline = Instant::now() + self.limits.answer;
        let route = self.route(&request);
        let models = route.candidates.iter().map(|id| (*id, self.directory.get(*id).model()));
        let key =
            CacheKey::new(request.tenant.as_str(), &request.prompt, route.task, route.criticality, models);
        // A database that cannot be read costs a call, not the answer.
        if !request.ttl.is_zero()
            && let Ok(Some(cached)) = self.answers.get(&key, self.now()).await
        {
            self.deduplicator.count_cached();
            return Ok((cached.into_answer(route.task), AnswerSource::Cached));
        }
        let state = Arc::clone(self);
        let call = {
            let key = key.clone();
            async move {
                let answer = state.call_candidates(&request, &route, deadline).await?;
                if !request.ttl.is_zero() {
                    state.cache_answer(&request, &key, &answer).await;
                }
                Ok(answer)
            }
        };
        self.deduplicator.run(key, &self.kit.tasks, call).await
    }

    /// Selects the candidates for a request.
    pub(super) fn route(&self, request: &AnswerRequest) -> Route {
        let task = Task::classify(&request.prompt.text);
        let criticality = request.criticality.unwrap_or_else(|| self.policy().criticality);
        let candidates = match request.provider {
            Some(only) => vec![only],
            None => candidates(task, criticality).to_vec(),
        };
        Route { task, criticality, candidates }
    }

    /// Waits for permission to call the usable candidates.
    pub(super) async fn admit(&self, route: &Route) -> Result<Admission, AnswerError> {
        let is_usable = |id: &ProviderId| self.directory.get(*id).known_unusable_reason().is_none();
        let usable: Vec<_> = route.candidates.iter().copied().filter(is_usable).collect();
        if usable.is_empty() {
            return Err(AnswerError::NoProvider { hint: self.explain_none_usable(route) });
        }
        let permit = self.concurrency.acquire(QUEUE_LIMIT).await?;
        Ok(Admission { permit, usable })
    }

    async fn call_candidates(
        self: &Arc<Self>,
        request: &AnswerRequest,
        route: &Route,
        deadline: Instant,
    ) -> Result<Answer, AnswerError> {
        let Admission { permit: _permit, usable } = self.admit(route).await?;
        let attempt = |id| self.call(id, request, route.task, deadline);
        let FirstSuccess { value: answer, failed } = self.first_success(usable, route, attempt).await?;
        Ok(Answer { attempts: failed, ..answer })
    }

    /// Calls usable candidates until one succeeds.
    pub(super) async fn first_success<T, F>(
        &self,
        usable: Vec<ProviderId>,
        route: &Route,
        attempt: impl Fn(ProviderId) -> F,
    ) -> Result<FirstSuccess<T>, AnswerError>
    where
        F: Future<Output = Result<T, FailedAttempt>>,
    {
        let is_free = |id| self.prices.of(id).is_free();
        first_success(usable, self.limits.hedge_after, is_free, attempt)
            .await
            .map_err(|failed| summarize_failure(failed, || self.explain_none_usable(route)))
    }

    fn explain_none_usable(&self, route: &Route) -> String {
        self.directory.explain_none_usable(&route.candidates, route.criticality)
    }

    async fn cache_answer(&self, request: &AnswerRequest, key: &CacheKey, answer: &Answer) {
        let AnswerRequest { tenant, ttl, .. } = request;
        if let Err(error) = self.answers.put(tenant, key, answer.into(), *ttl, self.now()).await {
            tracing::warn!(%error, "failed to cache an answer");
        }
    }
}
