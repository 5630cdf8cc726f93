//! Mapping of domain errors to HTTP responses: the only place that knows status and error codes.
//!
//! | Error | Status | Code |
//! |---|---|---|
//! | a value outside of its range | 400 | `invalid_body` |
//! | the daily budget is exceeded | 402 | `budget_exceeded` |
//! | a workflow recorded with other values | 409 | `conflict` |
//! | the provider policy has another version | 412 | `version_mismatch` |
//! | a request that ended without a result | 500 | `internal` |
//! | no usable provider | 503 | `no_provider` |
//! | every provider failed | 503 | `providers_failed` |
//! | too many calls in flight | 503 | `too_many_calls` |
//! | the database is unavailable | 503 | `database_unavailable` |
//!
//! The chassis maps errors of the database and of malformed requests.

use http::StatusCode;
use phase6_chassis::{ApiError, FieldFault};

use crate::{
    app::{AnswerError, NoUsableProvider, RankingError, RecordWorkflowError},
    model::InvalidValue,
    store::ChangePolicyError,
};

/// Times after which to retry, in seconds.
mod retry_after {
    /// Settings have to change before a provider is usable.
    pub(super) const NO_PROVIDER: u64 = 30;
    /// Default for providers that report no time.
    pub(super) const PROVIDERS_FAILED: u64 = 5;
    pub(super) const TOO_MANY_CALLS: u64 = 2;
    pub(super) const DATABASE: u64 = 2;
}

impl From<InvalidValue> for ApiError {
    fn from(error: InvalidValue) -> Self {
        let InvalidValue { field, value, accepted } = error;
        Self::invalid_body(vec![FieldFault::new(&field, format!("is {value}"), accepted)])
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> Self {
        let message = error.to_string();
        match error {
            AnswerError::NoProvider { hint } => NoUsableProvider { hint }.into(),
            AnswerError::ProvidersFailed { attempts } => {
                let earliest = attempts.iter().filter_map(|attempt| attempt.retry_after_seconds).min();
                let wait = earliest.unwrap_or(retry_after::PROVIDERS_FAILED);
                Self::unavailable("providers_failed", message, wait)
            }
            AnswerError::BudgetExceeded { retry_after_seconds, .. } => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "budget_exceeded", message)
                    .retry_after(retry_after_seconds)
            }
            AnswerError::TooManyCalls(_) => {
                Self::unavailable("too_many_calls", message, retry_after::TOO_MANY_CALLS)
            }
            AnswerError::StoreUnavailable => Self::unavailable(
                "database_unavailable",
                "the database is unavailable",
                retry_after::DATABASE,
            ),
            AnswerError::Lost => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "internal error; the service's log has the details",
            ),
        }
    }
}

impl From<NoUsableProvider> for ApiError {
    fn from(error: NoUsableProvider) -> Self {
        Self::unavailable("no_provider", error.hint, retry_after::NO_PROVIDER)
    }
}

impl From<RecordWorkflowError> for ApiError {
    fn from(error: RecordWorkflowError) -> Self {
        match error {
            RecordWorkflowError::Invalid(error) => error.into(),
            RecordWorkflowError::Conflict { .. } => {
                Self::new(StatusCode::CONFLICT, "conflict", error.to_string())
            }
            RecordWorkflowError::Store(error) => error.into(),
        }
    }
}

impl From<ChangePolicyError> for ApiError {
    fn from(error: ChangePolicyError) -> Self {
        match error {
            ChangePolicyError::Version(mismatch) => mismatch.into(),
            ChangePolicyError::Store(error) => error.into(),
        }
    }
}

impl From<RankingError> for ApiError {
    fn from(error: RankingError) -> Self {
        match error {
            RankingError::Invalid(error) => error.into(),
            RankingError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        app::AcquireError,
        model::{FailedAttempt, FailureCause, ProviderId},
    };

    #[test]
    fn every_answer_error_has_its_status_and_code() {
        let attempt = |wait| {
            let wait = Some(Duration::from_secs(wait));
            FailedAttempt::new(ProviderId::OpenAi, FailureCause::Provider, "failed", wait)
        };
        for (error, status, code) in [
            (AnswerError::NoProvider { hint: "set a key".into() }, 503, "no_provider"),
            (
                AnswerError::ProvidersFailed { attempts: vec![attempt(9), attempt(7)] },
                503,
                "providers_failed",
            ),
            (
                AnswerError::BudgetExceeded { message: "m".into(), retry_after_seconds: 1 },
                402,
                "budget_exceeded",
            ),
            (AnswerError::TooManyCalls(AcquireError::QueueFull), 503, "too_many_calls"),
            (AnswerError::StoreUnavailable, 503, "database_unavailable"),
            (AnswerError::Lost, 500, "internal"),
        ] {
            let mapped = ApiError::from(error.clone());
            assert_eq!((mapped.status().as_u16(), mapped.code()), (status, code), "{error:?}");
        }
    }
}
