//! Errors of a reconcile and of the program.
//!
//! A message states one level; its cause is the error's `source`, and [`with_cause`] joins the two where
//! an error is logged or shown. Every failed reconcile is retried; an error of the program ends it.

use std::{error::Error, io, net::SocketAddr};

use kube::core::Status;
use tokio::task::JoinError;

/// Error that ended a reconcile early.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A call to the API server failed.
    #[error("failed to {operation}")]
    Api {
        /// Operation that failed, such as `apply Service budget`.
        operation: String,
        /// Cause of the failure.
        source: ApiError,
    },
    /// An object that the resource needs belongs to another owner.
    #[error("{kind} {name} exists and does not belong to this resource; rename or remove one of them")]
    NameTaken {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// Another replica of the operator holds the Lease.
    #[error("this replica of the operator is not the leader")]
    NotLeader,
}

/// Cause of a failed call to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server responded with an error status.
    #[error("{}", .0.message)]
    Status(Box<Status>),
    /// The API server could not be reached, or its response could not be read.
    #[error(transparent)]
    Connection(Box<kube::Error>),
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Status(status),
            other => Self::Connection(Box::new(other)),
        }
    }
}

impl ReconcileError {
    /// Wraps the error of a call to the API server, for `map_err`.
    pub fn api(operation: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let operation = operation.into();
        move |error| Self::Api { operation, source: error.into() }
    }

    /// Returns the reason of the condition `Stalled` if the API server refused the operation for good.
    ///
    /// Returns `None` where a retry alone may succeed: another writer was faster (409), the API server is
    /// overloaded (429) or out of reach, or another replica of the operator leads.
    pub fn stall_reason(&self) -> Option<&'static str> {
        match self {
            Self::Api { source: ApiError::Status(status), .. } if !matches!(status.code, 409 | 429) => {
                Some("ApplyRefused")
            }
            Self::NameTaken { .. } => Some("NameTaken"),
            Self::Api { .. } | Self::NotLeader => None,
        }
    }

    /// Returns the value of the metric label `reason`, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Api { source: ApiError::Status(status), .. } => match status.code {
                409 => "conflict",
                403 => "forbidden",
                422 => "invalid",
                _ => "api",
            },
            Self::Api { source: ApiError::Connection(_), .. } => "connection",
            Self::NameTaken { .. } => "name_taken",
            Self::NotLeader => "not_leader",
        }
    }

    /// Returns true if the API server refused the object as invalid (422).
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Api { source: ApiError::Status(status), .. } if status.code == 422)
    }
}

/// Error that ended the operator.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The API server could not be reached or is not configured.
    #[error("failed to connect to the Kubernetes API server")]
    ApiServer(#[source] Box<dyn Error + Send + Sync>),
    /// The HTTP endpoints could not be served.
    #[error("failed to listen on {address}")]
    Listen {
        /// Address to listen on.
        address: SocketAddr,
        /// Cause of the failure.
        source: io::Error,
    },
    /// The HTTP client for policy probes could not be created.
    #[error("failed to create the HTTP client for policy probes")]
    ProbeClient(#[source] reqwest::Error),
    /// The cluster has no definition of `Phase6Service`.
    #[error("the definition of Phase6Service is not installed; install it with `kubectl apply -f crds/`")]
    DefinitionMissing,
    /// The election task ended, so that the Lease is no longer renewed.
    #[error("leader election ended unexpectedly")]
    ElectionEnded(#[source] Option<JoinError>),
    /// Every controller ended.
    #[error("all controllers ended unexpectedly")]
    ControllersEnded,
}

/// Returns the message of `error`, followed by that of its cause.
///
/// Adds the first cause only: the errors of kube repeat theirs in their own message.
pub fn with_cause(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> ReconcileError {
        let status = Status { code, ..Status::failure("exceeded quota: no-more", "Forbidden") };
        ReconcileError::api("apply Service budget")(kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_cause_follows_the_message_without_the_envelope_of_kube() {
        assert_eq!(with_cause(&status(403)), "failed to apply Service budget: exceeded quota: no-more");
        assert_eq!(with_cause(&ReconcileError::NotLeader), "this replica of the operator is not the leader");
    }

    #[test]
    fn conflicts_overload_and_lost_connections_do_not_stall_a_resource() {
        assert_eq!(status(403).stall_reason(), Some("ApplyRefused"));
        assert_eq!(status(422).stall_reason(), Some("ApplyRefused"));
        assert_eq!(status(409).stall_reason(), None);
        assert_eq!(status(429).stall_reason(), None);
        let connection = ReconcileError::api("apply Service budget")(kube::Error::TlsRequired);
        assert_eq!((connection.stall_reason(), connection.label()), (None, "connection"));
    }
}
