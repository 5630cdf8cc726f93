//! Hedging: the next provider is called when one fails, or is silent for too long.

use std::{collections::VecDeque, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::model::{FailedAttempt, ProviderId};

/// First success of several attempts.
pub(super) struct FirstSuccess<T> {
    /// Result of the attempt that succeeded.
    pub(super) value: T,
    /// Attempts that had failed before.
    pub(super) failed: Vec<FailedAttempt>,
}

/// Calls candidates in their order until one succeeds, and returns its result. Drops attempts that
/// are still running then.
///
/// At most two attempts run at a time: the second one begins when the first one has been silent for
/// `hedge_after`. A free provider is never hedged with one that costs money.
///
/// # Errors
///
/// Every candidate failed. The failures are in the order in which they happened.
pub(super) async fn first_success<T, F>(
    candidates: Vec<ProviderId>,
    hedge_after: Duration,
    is_free: impl Fn(ProviderId) -> bool,
    attempt: impl Fn(ProviderId) -> F,
) -> Result<FirstSuccess<T>, Vec<FailedAttempt>>
where
    F: Future<Output = Result<T, FailedAttempt>>,
{
    let start = |id| {
        let attempt = attempt(id);
        async move { (id, attempt.await) }
    };
    let mut queue = VecDeque::from(candidates);
    let mut attempts = FuturesUnordered::new();
    let mut running: Vec<ProviderId> = Vec::new();
    let mut failed = Vec::new();
    loop {
        if attempts.is_empty() {
            let Some(next) = queue.pop_front() else { return Err(failed) };
            attempts.push(start(next));
            running = vec![next];
        }
        let hedge = match running[..] {
            [only] => queue.iter().position(|next| !is_free(only) || is_free(*next)),
            _ => None,
        };
        tokio::select! {
            Some((id, result)) = attempts.next() => match result {
                Ok(value) => return Ok(FirstSuccess { value, failed }),
                Err(attempt) => {
                    failed.push(attempt);
                    running.retain(|other| *other != id);
                }
            },
            () = tokio::time::sleep(hedge_after), if hedge.is_some() => {
                if let Some(next) = hedge.and_then(|index| queue.remove(index)) {
                    attempts.push(start(next));
                    running.push(next);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::model::{
        FailureCause,
        ProviderId::{Anthropic, DeepSeek, Ollama, OpenAi},
    };

    const HEDGE_AFTER: Duration = Duration::from_millis(100);

    fn failure(id: ProviderId) -> FailedAttempt {
        FailedAttempt::new(id, FailureCause::Provider, "failed", None)
    }

    #[tokio::test(start_paused = true)]
    async fn calls_the_next_candidate_when_one_fails() {
        let result = first_success(
            vec![DeepSeek, OpenAi, Anthropic],
            HEDGE_AFTER,
            |_| false,
            |id| async move { if id == OpenAi { Ok(id) } else { Err(failure(id)) } },
        )
        .await;
        let FirstSuccess { value, failed } = result.ok().unwrap();
        assert_eq!((value, failed), (OpenAi, vec![failure(DeepSeek)]));
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_two_attempts_run_at_a_time() {
        let started = Mutex::new(Vec::new());
        let result = first_success(
            vec![DeepSeek, OpenAi, Anthropic],
            HEDGE_AFTER,
            |_| false,
            |id| {
                started.lock().push(id);
                async move {
                    let silence = if id == OpenAi { HEDGE_AFTER * 5 } else { HEDGE_AFTER * 100 };
                    tokio::time::sleep(silence).await;
                    Ok(id)
                }
            },
        )
        .await;
        assert_eq!(result.ok().unwrap().value, OpenAi);
        assert_eq!(*started.lock(), [DeepSeek, OpenAi]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_provider_is_not_hedged_with_one_that_costs_money() {
        let started = Mutex::new(Vec::new());
        let result = first_success(
            vec![Ollama, OpenAi],
            HEDGE_AFTER,
            |id| id == Ollama,
            |id| {
                started.lock().push(id);
                async move {
                    tokio::time::sleep(HEDGE_AFTER * 10).await;
                    Ok(id)
                }
            },
        )
        .await;
        assert_eq!(result.ok().unwrap().value, Ollama);
        assert_eq!(*started.lock(), [Ollama]);
    }
}
