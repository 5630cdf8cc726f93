//! What comes of a question: an answer, or why there is none and what its caller is told.

use http::StatusCode;
use phase6_chassis::ApiError;
use serde::Serialize;
use utoipa::ToSchema;

use super::attempt::{Attempt, Cause};
use crate::{answers::Kept, money::Micros, provider::Usage, routing::Task};

/// What is answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Who gave it.
    pub provider: String,
    /// With which model.
    pub model: String,
    /// What kind of answer the prompt was taken to want.
    pub task: Task,
    /// Tokens, if the provider said.
    pub usage: Option<Usage>,
    /// What it cost, in dollars.
    #[schema(value_type = f64)]
    pub cost: Micros,
    /// Whether the cost is our estimate, because the provider did not say.
    pub estimated: bool,
    /// Providers that were tried before and why they did not answer.
    pub attempts: Vec<Attempt>,
}

/// How an answer was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A provider was called.
    Called,
    /// It was kept from before.
    Kept,
    /// Another one's call brought it.
    Joined,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// No provider is set up.
    NoProvider {
        /// What to set.
        how: String,
    },
    /// Every provider failed or may not be called now.
    AllFailed {
        /// What happened with each.
        attempts: Vec<Attempt>,
    },
    /// The daily budget does not allow it.
    Exceeded {
        /// What the budget says.
        what: String,
        /// When it may allow it.
        retry_after_seconds: u64,
    },
    /// Too many calls are under way.
    Busy {
        /// What the gate says.
        what: String,
    },
    /// The records cannot be used.
    NoRecords,
    /// The work on it ended without a result: a bug.
    Lost,
}

impl From<NoAnswer> for ApiError {
    fn from(reason: NoAnswer) -> Self {
        match reason {
            NoAnswer::NoProvider { how } => Self::unavailable("no_provider", how, 30),
            NoAnswer::AllFailed { attempts } => {
                let wait =
                    attempts.iter().filter_map(|attempt| attempt.retry_after_seconds).min().unwrap_or(5);
                let told: Vec<_> = attempts
                    .iter()
                    .map(|attempt| format!("{}: {}", attempt.provider, attempt.reason))
                    .collect();
                let message = format!("no provider answered ({})", told.join("; "));
                Self::unavailable("providers_failed", message, wait)
            }
            NoAnswer::Exceeded { what, retry_after_seconds } => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "budget_exceeded", what)
                    .retry_after(retry_after_seconds)
            }
            NoAnswer::Busy { what } => Self::unavailable("too_many_calls", what, 2),
            NoAnswer::NoRecords => {
                Self::unavailable("database_unavailable", "the database cannot be reached or written now", 2)
            }
            NoAnswer::Lost => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the service failed; the log says why",
            ),
        }
    }
}

/// The reason that helps most, out of everything that happened. `why_none` says why no provider can
/// be used.
pub(super) fn why(attempts: Vec<Attempt>, why_none: impl FnOnce() -> String) -> NoAnswer {
    let exceeded = attempts.iter().filter(|attempt| attempt.cause == Cause::Exceeded);
    if let Some(exceeded) = exceeded.min_by_key(|attempt| attempt.retry_after_seconds) {
        // Something could have been called if the budget allowed it.
        return NoAnswer::Exceeded {
            what: exceeded.reason.clone(),
            retry_after_seconds: exceeded.retry_after_seconds.unwrap_or(1),
        };
    }
    let mut asked = attempts.iter().filter(|attempt| attempt.cause != Cause::Absent).peekable();
    if asked.peek().is_none() {
        return NoAnswer::NoProvider { how: why_none() };
    }
    if asked.all(|attempt| attempt.cause == Cause::NoRecords) {
        return NoAnswer::NoRecords;
    }
    NoAnswer::AllFailed { attempts }
}

/// An answer that was kept, to whom asks the same again.
pub(super) fn from_kept(kept: Kept, task: Task) -> Answer {
    Answer {
        text: kept.text,
        provider: kept.provider,
        model: kept.model,
        task,
        usage: None,
        cost: Micros::ZERO,
        estimated: false,
        attempts: vec![],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::provider::ProviderId;

    fn attempt(cause: Cause, retry_after: Option<u64>) -> Attempt {
        Attempt::new(ProviderId::OpenAi, cause, "why", retry_after.map(Duration::from_secs))
    }

    /// Work that panicked was told as `no provider answered ()`.
    #[test]
    fn nobody_is_told_that_no_provider_answered_without_a_reason() {
        assert_eq!(ApiError::from(NoAnswer::Lost).status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(matches!(why(vec![], || "set one".into()), NoAnswer::NoProvider { how } if how == "set one"));
    }

    #[test]
    fn the_reason_is_the_one_that_helps_most() {
        let why = |attempts: Vec<Attempt>| super::why(attempts, String::new);
        let absent = || attempt(Cause::Absent, None);
        let day = attempt(Cause::Exceeded, Some(40_000));
        let soon = attempt(Cause::Exceeded, Some(5));
        let exceeded = why(vec![absent(), day, attempt(Cause::Provider, None), soon]);
        assert!(matches!(exceeded, NoAnswer::Exceeded { retry_after_seconds: 5, .. }), "{exceeded:?}");
        assert!(matches!(why(vec![absent(), absent()]), NoAnswer::NoProvider { .. }));
        assert!(matches!(why(vec![absent(), attempt(Cause::NoRecords, None)]), NoAnswer::NoRecords));
        let both = vec![attempt(Cause::Provider, None), attempt(Cause::NoRecords, None)];
        assert!(matches!(why(both), NoAnswer::AllFailed { attempts } if attempts.len() == 2));
    }
}
