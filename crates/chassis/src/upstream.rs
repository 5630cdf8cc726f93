//! Calls to a peer: which endpoint, for how long, how often, and when not at all.
//!
//! ```text
//! call -> choose an endpoint (well, breaker closed, p2c) -> breaker -> pooled connection -> answer
//!            ^  (at most half of them are left out)            |
//!            '---- once more: idempotent or unsent, in budget -'
//! ```
//!
//! A call ends within its deadline. It carries what is left of that, the trace context and our own services' token. 502,
//! 503 and 504 are told apart: the peer broke the connection, no endpoint may be called, the peer
//! took too long.

mod balance;
mod ending;
mod endpoint;
mod endpoints;
mod error;
mod health;
mod pool;
mod retry;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use http::{HeaderValue, Request, Uri, Version, header::HOST};
use http_body::Body as _;
use parking_lot::Mutex;
use phase6_breaker::{Breaker, Outcome, Settings};
use phase6_live::Live;
use phase6_telemetry::{Exchange, OutgoingCall, SpanStatus, context::TRACEPARENT};
use tokio_util::sync::CancellationToken;

use self::{
    ending::{Waiting, describe, is_late, judge},
    endpoint::{CountedBody, Endpoint},
    endpoints::Endpoints,
    pool::SendError,
    retry::{Budget, Head, is_idempotent, is_worth_another_endpoint},
};
pub use self::{endpoint::EndpointSnapshot, error::CallError, health::Condition};
use crate::{
    InternalToken,
    caller::INTERNAL,
    deadline::{self, DEADLINE},
    extract::body_fault,
};

/// Tries for one call, the first one included.
const MOST_TRIES: u32 = 2;
/// A try with less time left says nothing about the endpoint.
const LEAST_TIME: Duration = Duration::from_millis(5);
/// A peer service and its endpoints. Clones are handles to the same one.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    endpoints: Endpoints,
    token: InternalToken,
    budget: Mutex<Budget>,
}

impl Upstream {
    /// The peer `name` at `addresses` (`host:port`), until [`Upstream::tend`] hears of others. Settings of
    /// the breakers may change at any time.
    pub fn new(
        name: &'static str,
        addresses: &[String],
        settings: &Live<Settings>,
        token: InternalToken,
    ) -> Self {
        let endpoints = Endpoints::new(name, addresses, settings);
        Self { inner: Arc::new(Inner { name, endpoints, token, budget: Mutex::default() }) }
    }

    /// The peer's name.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// The breakers of its endpoints, by the peer's name and, if there are several, their addresses.
    pub fn breakers(&self) -> Vec<(String, Breaker)> {
        self.inner.endpoints.breakers()
    }

    /// What its endpoints show.
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        self.inner.endpoints.snapshot()
    }

    /// Whether the peer says within `deadline` that it is ready.
    pub async fn is_ready(&self, deadline: Duration) -> bool {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/readyz");
        let Ok(answer) = self.call(request, deadline).await else { return false };
        let success = answer.status().is_success();
        // Read to its end, so that the connection can be used again.
        let body = axum::body::to_bytes(answer.into_body(), 64 * 1024);
        success && tokio::time::timeout(deadline, body).await.is_ok_and(|body| body.is_ok())
    }

    /// A GET whose JSON answer is wanted, on our own behalf.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; an answer that is no JSON counts as broken.
    pub async fn get_json(&self, path: &str, deadline: Duration) -> Result<serde_json::Value, CallError> {
        let broken = |what: String| CallError::Broken { peer: self.inner.name, what };
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().map_err(|error| broken(format!("bad path: {error}")))?;
        let started = Instant::now();
        let answer = self.call(request, deadline).await?;
        let left = deadline.saturating_sub(started.elapsed());
        let status = answer.status();
        let body = tokio::time::timeout(left, axum::body::to_bytes(answer.into_body(), 16 * 1024 * 1024))
            .await
            .map_err(|_| CallError::TooSlow { peer: self.inner.name, limit: deadline })?
            .map_err(|error| broken(error.to_string()))?;
        if !status.is_success() {
            return Err(broken(format!("status {status}")));
        }
        serde_json::from_slice(&body).map_err(|error| broken(format!("answer is not JSON: {error}")))
    }

    /// Sends a request whose target is a path, and gives the head of the answer within `deadline`;
    /// the body follows as it comes. A request that is made to answer another one has no more time than
    /// whoever asked for that still waits, and the peer is told.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn call(&self, request: Request<Body>, deadline: Duration) -> Result<Response, CallError> {
        // Whose time is short says nothing about the peer.
        let (deadline, inherited) = match deadline::left() {
            Some(left) if left < deadline => (left, true),
            _ => (deadline, false),
        };
        let due = Instant::now() + deadline;
        self.inner.budget.lock().earn();
        let idempotent = is_idempotent(request.method());
        // Only a request that can be made again from its head is kept for a second try.
        let spare = (idempotent && request.body().is_end_stream()).then(|| Head::of(&request));
        let mut next = Some(request);
        let mut tried: Option<Arc<Endpoint>> = None;
        for attempt in 1.. {
            let request = match (next.take(), &spare) {
                (Some(request), _) => request,
                (None, Some(head)) => head.request(),
                (None, None) => break,
            };
            let left = due.saturating_duration_since(Instant::now());
            if (attempt > 1 || inherited) && left < LEAST_TIME {
                return Err(CallError::TooSlow { peer: self.inner.name, limit: deadline });
            }
            let (endpoint, permit) = self
                .inner
                .endpoints
                .choose(tried.as_ref())
                .map_err(|retry_after| CallError::Unavailable { peer: self.inner.name, retry_after })?;
            let may_retry = || attempt < MOST_TRIES && self.inner.budget.lock().spend();
            let method = request.method().clone();
            let in_flight = endpoint.begin();
            let span = Exchange::current().map(|exchange| exchange.start_call());
            let request = self.prepare(request, &endpoint, left, span.as_ref());
            let mut waiting = Waiting::new(permit);
            let result = tokio::time::timeout(left, endpoint.send(request)).await;
            let fault = match &result {
                Ok(Err(SendError::Sent(error))) => body_fault(error),
                _ => None,
            };
            let outcome = if fault.is_some() { Outcome::Cancelled } else { judge(&result) };
            if inherited && is_late(&result) {
                waiting.give_up();
            } else {
                waiting.end(outcome);
            }
            if let Some(span) = span {
                let status = if outcome == Outcome::Failure { SpanStatus::Error } else { SpanStatus::Ok };
                span.end(status, || describe(self.inner.name, &method, &endpoint.host, &result));
            }
            if let Some(fault) = fault {
                return Err(CallError::Body(fault));
            }
            match result {
                Err(_) => return Err(CallError::TooSlow { peer: self.inner.name, limit: deadline }),
                Ok(Ok(answer)) => {
                    // A refusal is quick, and no reason to send more.
                    if answer.status().as_u16() < 400 {
                        endpoint.measured(waiting.since.elapsed());
                    }
                    let elsewhere =
                        self.inner.endpoints.are_several() && is_worth_another_endpoint(answer.status());
                    if elsewhere && spare.is_some() && may_retry() {
                        tried = Some(endpoint);
                        continue;
                    }
                    return Ok(answer.map(|body| Body::new(CountedBody::new(body, in_flight))));
                }
                Ok(Err(SendError::Unsent(request, error))) => {
                    // What was not sent is no load on the others.
                    let elsewhere = attempt < MOST_TRIES && self.inner.endpoints.are_several();
                    if !elsewhere && !may_retry() {
                        return Err(CallError::connect(self.inner.name, &error));
                    }
                    next = Some(*request);
                    tried = Some(endpoint);
                }
                Ok(Err(SendError::Sent(error))) => {
                    if spare.is_none() || !may_retry() {
                        return Err(CallError::Broken { peer: self.inner.name, what: error.to_string() });
                    }
                    tried = Some(endpoint);
                }
            }
        }
        Err(CallError::Broken { peer: self.inner.name, what: "no try was left".into() })
    }

    fn prepare(
        &self,
        mut request: Request<Body>,
        endpoint: &Endpoint,
        left: Duration,
        span: Option<&OutgoingCall>,
    ) -> Request<Body> {
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(HOST, endpoint.host.clone());
        headers.insert(INTERNAL, self.inner.token.header());
        headers.insert(DEADLINE, HeaderValue::from(left.as_millis() as u64));
        if let Some(span) = span {
            headers.insert(TRACEPARENT, span.context().to_header());
        }
        request
    }

    /// Probes its endpoints and follows where they are, until `stop`.
    pub async fn tend(self, addresses: Live<Vec<String>>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.inner.endpoints.tend(&addresses) => {}
        }
    }
}
