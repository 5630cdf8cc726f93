//! Reasons for which a request has no answer.

use super::AcquireError;
use crate::model::{FailedAttempt, FailureCause};

/// Failure of a request for an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No provider is usable.
    #[error("{hint}")]
    NoProvider {
        /// Change that would make one usable.
        hint: String,
    },
    /// Every provider failed or may not be called now.
    #[error("no provider answered ({})", list(attempts))]
    ProvidersFailed {
        /// Failures in the order in which they happened.
        attempts: Vec<FailedAttempt>,
    },
    /// The daily budget does not allow a call.
    #[error("{message}")]
    BudgetExceeded {
        /// Amounts of the budget.
        message: String,
        /// Time after which the budget may allow it, in seconds.
        retry_after_seconds: u64,
    },
    /// Too many calls are in flight.
    #[error(transparent)]
    TooManyCalls(#[from] AcquireError),
    /// The spending cannot be recorded, so no call is made.
    #[error("the spending cannot be recorded")]
    StoreUnavailable,
    /// The task of the request ended without a result, which is a bug.
    #[error("the request ended without a result")]
    Lost,
}

fn list(attempts: &[FailedAttempt]) -> String {
    let reasons: Vec<_> =
        attempts.iter().map(|attempt| format!("{}: {}", attempt.provider, attempt.reason)).collect();
    reasons.join("; ")
}

/// Summarizes failed attempts as the failure that tells the caller most. `explain_none_usable` says
/// why no provider is usable.
pub(super) fn summarize_failure(
    attempts: Vec<FailedAttempt>,
    explain_none_usable: impl FnOnce() -> String,
) -> AnswerError {
    let exceeded = attempts.iter().filter(|attempt| attempt.cause == FailureCause::BudgetExceeded);
    if let Some(exceeded) = exceeded.min_by_key(|attempt| attempt.retry_after_seconds) {
        // At least one provider could have been called if the budget allowed it.
        return AnswerError::BudgetExceeded {
            message: exceeded.reason.clone(),
            retry_after_seconds: exceeded.retry_after_seconds.unwrap_or(1),
        };
    }
    let mut running = attempts.iter().filter(|attempt| attempt.cause != FailureCause::NotRunning).peekable();
    if running.peek().is_none() {
        return AnswerError::NoProvider { hint: explain_none_usable() };
    }
    if running.all(|attempt| attempt.cause == FailureCause::StoreUnavailable) {
        return AnswerError::StoreUnavailable;
    }
    AnswerError::ProvidersFailed { attempts }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::ProviderId;

    fn attempt(cause: FailureCause, retry_after_seconds: Option<u64>) -> FailedAttempt {
        FailedAttempt::new(ProviderId::OpenAi, cause, "reason", retry_after_seconds.map(Duration::from_secs))
    }

    fn summarize(attempts: Vec<FailedAttempt>) -> AnswerError {
        summarize_failure(attempts, || "set a key".to_owned())
    }

    /// Regression: a panic was reported as `no provider answered ()`.
    #[test]
    fn without_attempts_no_provider_is_usable() {
        assert_eq!(summarize(vec![]), AnswerError::NoProvider { hint: "set a key".into() });
    }

    #[test]
    fn the_summary_is_the_most_specific_failure() {
        let not_running = || attempt(FailureCause::NotRunning, None);
        let exceeded = summarize(vec![
            not_running(),
            attempt(FailureCause::BudgetExceeded, Some(40_000)),
            attempt(FailureCause::Provider, None),
            attempt(FailureCause::BudgetExceeded, Some(5)),
        ]);
        assert!(
            matches!(exceeded, AnswerError::BudgetExceeded { retry_after_seconds: 5, .. }),
            "{exceeded:?}"
        );
        assert!(matches!(summarize(vec![not_running(), not_running()]), AnswerError::NoProvider { .. }));
        let store = || attempt(FailureCause::StoreUnavailable, None);
        assert_eq!(summarize(vec![not_running(), store()]), AnswerError::StoreUnavailable);
        let failed = summarize(vec![attempt(FailureCause::Provider, None), store()]);
        assert_eq!(failed.to_string(), "no provider answered (openai: reason; openai: reason)");
    }
}
