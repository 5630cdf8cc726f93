//! Calls to a peer: choice of the endpoint, circuit breaker, deadline and retry.
//!
//! ```text
//! call -> choose an endpoint (healthy, power of two choices) -> breaker -> pooled connection -> response
//!            ^                                                     |
//!            '---- retry: idempotent or unsent, within a budget ---'
//! ```
//!
//! A call ends within its time limit. It carries the remaining time, the trace context and the principal on whose
//! behalf it is made. Failures have three statuses: 502 if the connection broke, 503 if no endpoint may be called, 504 if
//! the peer took too long.

mod attempt;
mod balance;
mod endpoint;
mod endpoints;
mod error;
mod health;
mod latency;
mod pool;
mod retry;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use http::{HeaderValue, Request, Uri, Version, header::HOST};
use http_body::Body as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use phase6_breaker::{Breaker, Outcome, Settings};
use phase6_identity::{InternalToken, Principal};
use phase6_live::Live;
use phase6_telemetry::{Exchange, OutgoingCall, SpanStatus, context::TRACEPARENT};
use tokio_util::sync::CancellationToken;

use self::{
    attempt::{PendingAttempt, describe, is_timeout, outcome},
    endpoint::{CountedBody, Endpoint},
    endpoints::{ChosenEndpoint, Endpoints},
    pool::SendError,
    retry::{RequestHead, RetryBudget, is_idempotent, is_worth_another_endpoint},
};
pub use self::{endpoint::EndpointSnapshot, error::CallError, health::EndpointHealth};
use crate::{
    INTERNAL,
    request::{DEADLINE, body_error, deadline},
};

/// Largest number of attempts of one call, the first one included.
const MAX_ATTEMPTS: u32 = 2;
/// Shortest time for an attempt. A shorter one is no evidence about the endpoint.
const MIN_ATTEMPT_TIME: Duration = Duration::from_millis(5);
/// Largest body of a response to `is_ready`, in bytes.
const MAX_READINESS_BYTES: usize = 64 * 1024;
/// Largest body of a response to `get_json`, in bytes.
const MAX_JSON_BYTES: usize = 16 * 1024 * 1024;

/// A peer service and its endpoints, called on behalf of a principal. Clones share the endpoints.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
    principal: Principal,
}

struct Inner {
    name: &'static str,
    endpoints: Endpoints,
    token: InternalToken,
    retries: Mutex<RetryBudget>,
}

/// Time limit of a call.
#[derive(Clone, Copy)]
struct TimeLimit {
    limit: Duration,
    due: Instant,
    /// True if the limit is that of the caller's own caller: then a timeout is no evidence about the peer.
    is_inherited: bool,
}

/// Result of an attempt that reached its end.
enum Attempt {
    /// The head of a response has arrived.
    Response(Response),
    /// The request was not sent.
    Unsent(Request<Body>, io::Error),
    /// The connection broke after the request was sent, at least in part.
    Broken(hyper::Error),
}

impl Upstream {
    /// Creates the peer `name` with endpoints at `addresses` (`host:port`), which is called by `caller` unless
    /// [`Upstream::on_behalf_of`] names somebody else.
    ///
    /// The settings of the circuit breakers may change at any time; the addresses change with
    /// [`Upstream::maintain`].
    pub fn new(
        name: &'static str,
        addresses: &[String],
        breaker: &Live<Settings>,
        token: InternalToken,
        caller: Principal,
    ) -> Self {
        let endpoints = Endpoints::new(name, addresses, breaker);
        let inner = Inner { name, endpoints, token, retries: Mutex::default() };
        Self { inner: Arc::new(inner), principal: caller }
    }

    /// Returns the peer for calls on behalf of `principal`: the peer treats them as its own.
    #[must_use]
    pub fn on_behalf_of(&self, principal: Principal) -> Self {
        Self { inner: Arc::clone(&self.inner), principal }
    }

    /// Name of the peer.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Returns the circuit breakers of the endpoints by name: that of the peer, with the address of the endpoint
    /// if there are several.
    pub fn breakers(&self) -> Vec<(String, Breaker)> {
        self.inner.endpoints.breakers()
    }

    /// Returns a snapshot of every endpoint.
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        self.inner.endpoints.snapshot()
    }

    /// Returns true if the peer responds within `limit` that it is ready.
    pub async fn is_ready(&self, limit: Duration) -> bool {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/readyz");
        let Ok(response) = self.call(request, limit).await else { return false };
        let is_success = response.status().is_success();
        // Read to its end, so that the connection returns to the pool.
        let body = to_bytes(response.into_body(), MAX_READINESS_BYTES);
        is_success && tokio::time::timeout(limit, body).await.is_ok_and(|body| body.is_ok())
    }

    /// Sends a GET request, and returns the JSON of its response within `limit`.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; a response that is not successful or not JSON counts as broken.
    pub async fn get_json(&self, path: &str, limit: Duration) -> Result<serde_json::Value, CallError> {
        let broken = |reason: String| CallError::Broken { peer: self.inner.name, reason };
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().map_err(|error| broken(format!("invalid path: {error}")))?;
        let started = Instant::now();
        let response = self.call(request, limit).await?;
        let remaining = limit.saturating_sub(started.elapsed());
        let status = response.status();
        let body = tokio::time::timeout(remaining, to_bytes(response.into_body(), MAX_JSON_BYTES))
            .await
            .map_err(|_| CallError::TimedOut { peer: self.inner.name, limit })?
            .map_err(|error| broken(error.to_string()))?;
        if !status.is_success() {
            return Err(broken(format!("status {status}")));
        }
        serde_json::from_slice(&body).map_err(|error| broken(format!("the response is not JSON: {error}")))
    }

    /// Sends a request whose target is a path, and returns the head of the response within `limit`; the body is
    /// streamed.
    ///
    /// A request that is sent while another one is handled has no more time than the caller of that one still
    /// waits, and tells the peer.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn call(&self, request: Request<Body>, limit: Duration) -> Result<Response, CallError> {
        let Inner { name: peer, endpoints, retries, .. } = &*self.inner;
        let time = TimeLimit::start(limit);
        retries.lock().deposit();
        // A request with a body cannot be repeated: its body is gone.
        let is_repeatable = is_idempotent(request.method()) && request.body().is_end_stream();
        let head = is_repeatable.then(|| RequestHead::of(&request));
        let mut request = request;
        let mut tried: Option<Arc<Endpoint>> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            if (attempt > 1 || time.is_inherited) && time.remaining() < MIN_ATTEMPT_TIME {
                return Err(CallError::TimedOut { peer, limit: time.limit });
            }
            let chosen = endpoints
                .choose(tried.as_ref())
                .map_err(|none| CallError::Unavailable { peer, retry_after: none.retry_after })?;
            let endpoint = Arc::clone(&chosen.endpoint);
            let may_retry = || attempt < MAX_ATTEMPTS && retries.lock().withdraw();
            request = match self.attempt(request, chosen, time).await? {
                Attempt::Response(response) => match &head {
                    Some(head)
                        if endpoints.are_several()
                            && is_worth_another_endpoint(response.status())
                            && may_retry() =>
                    {
                        head.request()
                    }
                    _ => return Ok(response),
                },
                Attempt::Unsent(request, error) => {
                    // An unsent request was no load, so sending it elsewhere needs no budget.
                    let is_free = attempt < MAX_ATTEMPTS && endpoints.are_several();
                    if !is_free && !may_retry() {
                        return Err(CallError::connect(peer, &error));
                    }
                    request
                }
                Attempt::Broken(error) => match &head {
                    Some(head) if may_retry() => head.request(),
                    _ => return Err(CallError::Broken { peer, reason: error.to_string() }),
                },
            };
            tried = Some(endpoint);
        }
    }

    /// Sends a request to an endpoint, and reports the outcome to its breaker and to the trace.
    async fn attempt(
        &self,
        request: Request<Body>,
        chosen: ChosenEndpoint,
        time: TimeLimit,
    ) -> Result<Attempt, CallError> {
        let ChosenEndpoint { endpoint, permit } = chosen;
        let method = request.method().clone();
        let remaining = time.remaining();
        let in_flight = endpoint.begin_call();
        let span = Exchange::current().map(|exchange| exchange.start_call());
        let request = self.prepare(request, &endpoint, remaining, span.as_ref());
        let mut pending = PendingAttempt::start(permit);
        let result = tokio::time::timeout(remaining, endpoint.send(request)).await;
        let body_error = match &result {
            Ok(Err(SendError::Sent(error))) => body_error(error),
            _ => None,
        };
        let outcome = if body_error.is_some() { Outcome::Cancelled } else { outcome(&result) };
        if time.is_inherited && is_timeout(&result) {
            pending.abandon();
        } else {
            pending.report(outcome);
        }
        if let Some(span) = span {
            let status = if outcome == Outcome::Failure { SpanStatus::Error } else { SpanStatus::Ok };
            span.end(status, || describe(self.inner.name, &method, &endpoint.host, &result));
        }
        if let Some(error) = body_error {
            return Err(CallError::Body(error));
        }
        match result {
            Err(_) => Err(CallError::TimedOut { peer: self.inner.name, limit: time.limit }),
            Ok(Ok(response)) => {
                // A rejection is fast, and no reason to send more calls.
                if response.status().as_u16() < 400 {
                    endpoint.record_latency(pending.elapsed());
                }
                let response = response.map(|body| Body::new(CountedBody::new(body, in_flight)));
                Ok(Attempt::Response(response))
            }
            Ok(Err(SendError::Unsent(request, error))) => Ok(Attempt::Unsent(*request, error)),
            Ok(Err(SendError::Sent(error))) => Ok(Attempt::Broken(error)),
        }
    }

    fn prepare(
        &self,
        mut request: Request<Body>,
        endpoint: &Endpoint,
        remaining: Duration,
        span: Option<&OutgoingCall>,
    ) -> Request<Body> {
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(HOST, endpoint.host.clone());
        headers.insert(INTERNAL, self.inner.token.sign(&self.principal, Timestamp::now()));
        headers.insert(DEADLINE, HeaderValue::from(remaining.as_millis() as u64));
        if let Some(span) = span {
            headers.insert(TRACEPARENT, span.context().to_header());
        }
        request
    }

    /// Probes the endpoints and follows changes of their addresses until `stop` is cancelled.
    pub async fn maintain(self, addresses: Live<Vec<String>>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.inner.endpoints.maintain(&addresses) => {}
        }
    }
}

impl TimeLimit {
    /// Starts the time of a call: `limit`, or the remaining time of the current request if that is shorter.
    fn start(limit: Duration) -> Self {
        let (limit, is_inherited) = match deadline::remaining() {
            Some(remaining) if remaining < limit => (remaining, true),
            _ => (limit, false),
        };
        Self { limit, due: Instant::now() + limit, is_inherited }
    }

    fn remaining(self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }
}
