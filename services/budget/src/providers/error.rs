//! Failures of calls, by their meaning for the bill and for the circuit breaker.

use std::time::Duration;

use phase6_chassis::breaker::Outcome;

use crate::model::{Usage, spending::CallOutcome};

/// Failure of a call to a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request was not sent, because no connection could be made.
    #[error("cannot connect")]
    Unreachable,
    /// The provider refused the request because of us: a bad key, a bad request, an unknown model.
    #[error("refused with status {status}")]
    Refused {
        /// HTTP status of the response.
        status: u16,
    },
    /// The provider refused the request for now.
    #[error("throttled the request")]
    Throttled {
        /// Time to wait, if the provider reported it.
        retry_after: Option<Duration>,
    },
    /// The provider failed.
    #[error("failed with status {status}")]
    Failed {
        /// HTTP status of the response.
        status: u16,
    },
    /// The provider took too long after the request had been sent.
    #[error("took too long")]
    TooSlow,
    /// The connection was lost after the request had been sent.
    #[error("connection lost")]
    Broken,
    /// The response does not follow the documented format.
    #[error("response does not follow the documented format")]
    Malformed,
    /// The provider began to answer and then reported an error.
    #[error("reported an error")]
    Reported,
    /// The answer holds no text.
    #[error("answer holds no text")]
    Empty {
        /// Tokens that were used nevertheless, if the provider reported them.
        usage: Option<Usage>,
    },
}

impl CallError {
    /// True if the provider may have done the work, and so may charge for it.
    pub fn may_be_charged(&self) -> bool {
        matches!(self, Self::TooSlow | Self::Broken | Self::Malformed | Self::Reported | Self::Empty { .. })
    }

    /// Outcome of the call, as the ledger records it.
    pub fn outcome(&self) -> CallOutcome {
        match self {
            Self::Unreachable => CallOutcome::Unreachable,
            Self::Refused { .. } => CallOutcome::Refused,
            Self::Throttled { .. } => CallOutcome::Throttled,
            Self::Failed { .. } => CallOutcome::Failed,
            Self::TooSlow => CallOutcome::TooSlow,
            Self::Broken => CallOutcome::Broken,
            Self::Malformed => CallOutcome::Malformed,
            Self::Reported => CallOutcome::Reported,
            Self::Empty { .. } => CallOutcome::Empty,
        }
    }

    /// Outcome of the call, for the circuit breaker.
    pub fn breaker_outcome(&self) -> Outcome {
        match self {
            Self::Throttled { retry_after } => Outcome::Throttled { retry_after: *retry_after },
            // The provider responds: a refusal concerns our request, and an empty answer is an answer.
            Self::Refused { .. } | Self::Empty { .. } => Outcome::Success,
            Self::Unreachable
            | Self::Failed { .. }
            | Self::TooSlow
            | Self::Broken
            | Self::Reported
            | Self::Malformed => Outcome::Failure,
        }
    }
}
