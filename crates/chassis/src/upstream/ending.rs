//! How a try ended: what the breaker counts, and what the trace says.

use std::time::{Duration, Instant};

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode};
use phase6_breaker::{Outcome, Permit};
use phase6_telemetry::Attributes;
use tokio::time::error::Elapsed;

use super::pool::{PooledBody, SendError};
use crate::envelope::FAULT;

/// A caller that waited for so long and left did so because of the peer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a try came to within its time.
pub(super) type Tried = Result<Result<Response<PooledBody>, SendError>, Elapsed>;

/// For the breaker. A 429 speaks of the caller, and a 503 about something behind the peer is an
/// answer of a peer that is well.
pub(super) fn judge(tried: &Tried) -> Outcome {
    match tried {
        Ok(Ok(answer)) if answer.status().is_server_error() && !answer.headers().contains_key(FAULT) => {
            Outcome::Failure
        }
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(_)) | Err(_) => Outcome::Failure,
    }
}

/// Whether it ended because of its time, by the peer's word or by ours.
pub(super) fn is_late(tried: &Tried) -> bool {
    match tried {
        Ok(Ok(answer)) => answer.status() == StatusCode::GATEWAY_TIMEOUT,
        Ok(Err(_)) => false,
        Err(_) => true,
    }
}

/// For the trace: the name of its span, and what is known of it.
pub(super) fn describe(
    peer: &'static str,
    method: &Method,
    host: &HeaderValue,
    tried: &Tried,
) -> (String, Attributes) {
    let host = String::from_utf8_lossy(host.as_bytes()).into_owned();
    let mut attributes: Attributes = vec![
        ("http.request.method", method.to_string().into()),
        ("service.peer.name", peer.into()),
        ("server.address", host.into()),
    ];
    match tried {
        Ok(Ok(answer)) => {
            attributes.push(("http.response.status_code", answer.status().into()));
            if answer.status().is_server_error() {
                attributes.push(("error.type", answer.status().as_str().to_owned().into()));
            }
        }
        Ok(Err(SendError::Unsent(..))) => attributes.push(("error.type", "unreachable".into())),
        Ok(Err(SendError::Sent(_))) => attributes.push(("error.type", "broken".into())),
        Err(_) => attributes.push(("error.type", "timeout".into())),
    }
    (format!("{method} {peer}"), attributes)
}

/// A call that waits for the head of its answer.
pub(super) struct Waiting {
    permit: Option<Permit>,
    pub(super) since: Instant,
}

impl Waiting {
    pub(super) fn new(permit: Option<Permit>) -> Self {
        Self { permit, since: Instant::now() }
    }

    /// Nobody waits any more. A peer that hangs must not stay in use because nobody waits to the end.
    pub(super) fn give_up(&mut self) {
        let hangs = self.since.elapsed() >= PATIENCE;
        self.end(if hangs { Outcome::Failure } else { Outcome::Cancelled });
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            permit.record(outcome);
        }
    }
}

impl Drop for Waiting {
    /// The caller went away.
    fn drop(&mut self) {
        self.give_up();
    }
}
