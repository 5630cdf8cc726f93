//! Why a call to a peer has no answer, and what the caller's caller is told.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::ApiError;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No endpoint may be called now.
    #[error("no endpoint of {peer} is available; retry in {} ms", retry_after.as_millis())]
    Unavailable {
        /// The peer.
        peer: &'static str,
        /// When one may be.
        retry_after: Duration,
    },
    /// No process listens at the endpoint.
    #[error("{peer} refused the connection")]
    Refused {
        /// The peer.
        peer: &'static str,
    },
    /// The connection could not be made or broke.
    #[error("connection to {peer} failed: {what}")]
    Broken {
        /// The peer.
        peer: &'static str,
        /// What happened.
        what: String,
    },
    /// It took too long.
    #[error("{peer} did not answer within {} ms", limit.as_millis())]
    TooSlow {
        /// The peer.
        peer: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The request's own body is at fault, and the peer is not.
    #[error("the request's body could not be read")]
    Body(ApiError),
}

impl CallError {
    /// Error for a connection that could not be opened.
    pub(super) fn connect(peer: &'static str, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::Refused { peer },
            _ => Self::Broken { peer, what: error.to_string() },
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Body(fault) => fault,
            CallError::Unavailable { retry_after, .. } => {
                Self::unavailable("upstream_unavailable", message, retry_after.as_secs() + 1)
            }
            CallError::Refused { .. } | CallError::Broken { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "upstream_failed", message)
            }
            CallError::TooSlow { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message),
        }
    }
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        ApiError::from(self).into_response()
    }
}
