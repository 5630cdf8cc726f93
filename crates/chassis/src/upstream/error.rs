//! Errors of calls to a peer, and their responses to the caller.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::ApiError;

/// Failure of a call to a peer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No endpoint may be called now.
    #[error("no endpoint of {peer} is available; retry in {} ms", retry_after.as_millis())]
    Unavailable {
        /// Name of the peer.
        peer: &'static str,
        /// Time until an endpoint may be available.
        retry_after: Duration,
    },
    /// No process listens at the endpoint.
    #[error("{peer} refused the connection")]
    Refused {
        /// Name of the peer.
        peer: &'static str,
    },
    /// The connection failed, or the response was not usable.
    #[error("call to {peer} failed: {reason}")]
    Broken {
        /// Name of the peer.
        peer: &'static str,
        /// Cause of the failure.
        reason: String,
    },
    /// The response did not begin in time.
    #[error("{peer} did not respond within {} ms", limit.as_millis())]
    TimedOut {
        /// Name of the peer.
        peer: &'static str,
        /// Time limit of the call.
        limit: Duration,
    },
    /// The body of the caller's own request failed, which is no fault of the peer.
    #[error("the request's body could not be read")]
    Body(ApiError),
}

impl CallError {
    /// Creates the error for a connection that could not be opened.
    pub(super) fn connect(peer: &'static str, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::Refused { peer },
            _ => Self::Broken { peer, reason: error.to_string() },
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Body(error) => error,
            CallError::Unavailable { retry_after, .. } => {
                Self::unavailable("upstream_unavailable", message, retry_after.as_secs() + 1)
            }
            CallError::Refused { .. } | CallError::Broken { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "upstream_failed", message)
            }
            CallError::TimedOut { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message),
        }
    }
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        ApiError::from(self).into_response()
    }
}
