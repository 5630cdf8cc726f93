//! One attempt of a call, and its records in the circuit breaker and the trace.

use std::time::{Duration, Instant};

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode};
use phase6_breaker::{Outcome, Permit};
use phase6_telemetry::Attributes;
use tokio::time::error::Elapsed;

use super::pool::{PooledBody, SendError};
use crate::FAULT;

/// Wait after which a cancelled attempt counts as a failure: a peer that hangs must not stay in use because no
/// caller waits until it times out.
const HANG: Duration = Duration::from_secs(5);

/// Result of an attempt within its time limit.
pub(super) type AttemptResult = Result<Result<Response<PooledBody>, SendError>, Elapsed>;

/// Returns the outcome that the circuit breaker records. A 429 concerns the caller, and a 503 with
/// `phase6-fault` concerns something behind a peer that works: neither is a failure of the peer.
pub(super) fn outcome(result: &AttemptResult) -> Outcome {
    match result {
        Ok(Ok(response)) if !response.status().is_server_error() => Outcome::Success,
        Ok(Ok(response)) if response.headers().contains_key(FAULT) => Outcome::Success,
        Ok(Ok(_) | Err(_)) | Err(_) => Outcome::Failure,
    }
}

/// True if the attempt ended because of its time limit, according to the peer or to this side.
pub(super) fn is_timeout(result: &AttemptResult) -> bool {
    match result {
        Ok(Ok(response)) => response.status() == StatusCode::GATEWAY_TIMEOUT,
        Ok(Err(_)) => false,
        Err(_) => true,
    }
}

/// Returns name and attributes of the attempt's span.
pub(super) fn describe(
    peer: &'static str,
    method: &Method,
    host: &HeaderValue,
    result: &AttemptResult,
) -> (String, Attributes) {
    let host = String::from_utf8_lossy(host.as_bytes()).into_owned();
    let mut attributes: Attributes = vec![
        ("http.request.method", method.to_string().into()),
        ("service.peer.name", peer.into()),
        ("server.address", host.into()),
    ];
    match result {
        Ok(Ok(response)) => {
            attributes.push(("http.response.status_code", response.status().into()));
            if response.status().is_server_error() {
                attributes.push(("error.type", response.status().as_str().to_owned().into()));
            }
        }
        Ok(Err(SendError::Unsent(..))) => attributes.push(("error.type", "unreachable".into())),
        Ok(Err(SendError::Sent(_))) => attributes.push(("error.type", "broken".into())),
        Err(_) => attributes.push(("error.type", "timeout".into())),
    }
    (format!("{method} {peer}"), attributes)
}

/// An attempt that waits for the head of its response. Reports to the breaker once, at the latest on drop.
pub(super) struct PendingAttempt {
    /// `None` for endpoints that are called although their breaker is open.
    permit: Option<Permit>,
    started: Instant,
}

impl PendingAttempt {
    pub(super) fn start(permit: Option<Permit>) -> Self {
        Self { permit, started: Instant::now() }
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Reports the outcome to the breaker.
    pub(super) fn report(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            permit.record(outcome);
        }
    }

    /// Reports that the caller waits no longer.
    pub(super) fn abandon(&mut self) {
        let hangs = self.elapsed() >= HANG;
        self.report(if hangs { Outcome::Failure } else { Outcome::Cancelled });
    }
}

impl Drop for PendingAttempt {
    fn drop(&mut self) {
        self.abandon();
    }
}
