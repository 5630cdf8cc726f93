//! Calls to a peer: which endpoint, for how long, how often, and when not at all.
//!
//! ```text
//! call -> choose an endpoint (well, breaker closed, p2c) -> breaker -> pooled connection -> answer
//!            ^                                                 |
//!            '---- once more: idempotent or unsent, in budget -'
//! ```
//!
//! A call ends within its deadline. It carries the trace context and our own services' token. 502,
//! 503 and 504 are told apart: the peer broke the connection, no endpoint may be called, the peer
//! took too long.

mod balance;
mod ending;
mod endpoint;
mod error;
mod health;
mod pool;
mod retry;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use http::{HeaderMap, Method, Request, Uri, Version, header::HOST};
use http_body::Body as _;
use parking_lot::Mutex;
use phase6_breaker::{Breaker, Outcome, Permit, Settings};
use phase6_live::Live;
use phase6_telemetry::{Exchange, OutgoingCall, Status, context::TRACEPARENT};
use tokio_util::sync::CancellationToken;

use self::{
    balance::choose,
    ending::{describe, judge},
    endpoint::{CountedBody, Endpoint},
    pool::SendError,
    retry::{Budget, is_idempotent, is_worth_another_endpoint},
};
pub use self::{endpoint::EndpointSnapshot, error::CallError, health::Condition};
use crate::{InternalToken, caller::INTERNAL, extract::body_fault};

/// How often endpoints are probed, and how often while one of them is not well.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_ANXIOUSLY: Duration = Duration::from_millis(500);
/// Tries for one call, the first one included.
const MOST_TRIES: u32 = 2;
/// A try with less time left says nothing about the endpoint.
const LEAST_TIME: Duration = Duration::from_millis(5);
/// A caller that waited for so long and left did so because of the peer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A peer service and its endpoints. Clones are handles to the same one.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    endpoints: Vec<Endpoint>,
    token: InternalToken,
    budget: Mutex<Budget>,
}

impl Upstream {
    /// The peer `name` at `endpoints` (`host:port`). Settings of the breakers may change at any
    /// time.
    pub fn new(
        name: &'static str,
        endpoints: &[String],
        settings: &Live<Settings>,
        token: InternalToken,
    ) -> Self {
        let endpoints = endpoints
            .iter()
            .filter_map(|address| {
                let breaker_name =
                    if endpoints.len() == 1 { name.to_owned() } else { format!("{name}@{address}") };
                Endpoint::new(address, breaker_name, settings)
            })
            .collect();
        Self { inner: Arc::new(Inner { name, endpoints, token, budget: Mutex::default() }) }
    }

    /// The peer's name.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// The breakers of its endpoints.
    pub fn breakers(&self) -> impl Iterator<Item = Breaker> {
        self.inner.endpoints.iter().map(|endpoint| endpoint.breaker.clone())
    }

    /// What its endpoints show.
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        self.inner.endpoints.iter().map(Endpoint::snapshot).collect()
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
    /// the body follows as it comes.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn call(&self, request: Request<Body>, deadline: Duration) -> Result<Response, CallError> {
        let due = Instant::now() + deadline;
        self.inner.budget.lock().earn();
        let idempotent = is_idempotent(request.method());
        // Only a request that can be made again from its head is kept for a second try.
        let spare = (idempotent && request.body().is_end_stream()).then(|| Head::of(&request));
        let mut next = Some(request);
        let mut tried: Option<usize> = None;
        for attempt in 1.. {
            let request = match (next.take(), &spare) {
                (Some(request), _) => request,
                (None, Some(head)) => head.request(),
                (None, None) => break,
            };
            let left = due.saturating_duration_since(Instant::now());
            if attempt > 1 && left < LEAST_TIME {
                return Err(CallError::TooSlow { peer: self.inner.name, limit: deadline });
            }
            let (index, permit) = self.endpoint(tried)?;
            let endpoint = &self.inner.endpoints[index];
            let may_retry = || attempt < MOST_TRIES && self.inner.budget.lock().spend();
            let method = request.method().clone();
            let in_flight = endpoint.begin();
            let span = Exchange::current().map(|exchange| exchange.call());
            let request = self.prepare(request, endpoint, span.as_ref());
            let mut waiting = Waiting::new(permit);
            let result = tokio::time::timeout(left, endpoint.send(request)).await;
            let fault = match &result {
                Ok(Err(SendError::Sent(error))) => body_fault(error),
                _ => None,
            };
            let outcome = if fault.is_some() { Outcome::Cancelled } else { judge(&result) };
            waiting.end(outcome);
            if let Some(span) = span {
                let status = if outcome == Outcome::Failure { Status::Error } else { Status::Ok };
                span.end(status, || describe(self.inner.name, &method, &endpoint.host, &result));
            }
            if let Some(fault) = fault {
                return Err(CallError::Body(fault));
            }
            tried = Some(index);
            match result {
                Err(_) => return Err(CallError::TooSlow { peer: self.inner.name, limit: deadline }),
                Ok(Ok(answer)) => {
                    // A refusal is quick, and no reason to send more.
                    if answer.status().as_u16() < 400 {
                        endpoint.measured(waiting.since.elapsed());
                    }
                    let elsewhere =
                        self.inner.endpoints.len() > 1 && is_worth_another_endpoint(answer.status());
                    if elsewhere && spare.is_some() && may_retry() {
                        continue;
                    }
                    return Ok(answer.map(|body| Body::new(CountedBody::new(body, in_flight))));
                }
                Ok(Err(SendError::Unsent(request, error))) => {
                    if !may_retry() {
                        return Err(CallError::Broken { peer: self.inner.name, what: error.to_string() });
                    }
                    next = Some(*request);
                }
                Ok(Err(SendError::Sent(error))) => {
                    if spare.is_none() || !may_retry() {
                        return Err(CallError::Broken { peer: self.inner.name, what: error.to_string() });
                    }
                }
            }
        }
        Err(CallError::Broken { peer: self.inner.name, what: "no try was left".into() })
    }

    /// An endpoint and the right to call it; not the one that was just tried, if there is another.
    fn endpoint(&self, tried: Option<usize>) -> Result<(usize, Permit), CallError> {
        let endpoints = &self.inner.endpoints;
        let admitted = |index: &usize| endpoints[*index].breaker.would_admit();
        let well = |index: &usize| endpoints[*index].condition() != Condition::Unhealthy;
        let other = |index: &usize| Some(*index) != tried;
        let all = 0..endpoints.len();
        let chosen = if endpoints.len() == 1 {
            Some(0).filter(admitted)
        } else {
            let mut eligible: Vec<usize> = all.clone().filter(other).filter(admitted).filter(well).collect();
            if eligible.is_empty() {
                // Probes can be wrong about all of them at once; the breakers have the last word.
                eligible = all.filter(admitted).collect();
            }
            let candidates: Vec<_> = eligible.iter().map(|index| endpoints[*index].candidate()).collect();
            choose(&candidates, [rand::random(), rand::random()]).map(|chosen| eligible[chosen])
        };
        let others = (0..endpoints.len()).filter(|index| Some(*index) != chosen);
        // The chosen one may have given its last probe to another call a moment ago.
        let mut soonest: Option<Duration> = None;
        for index in chosen.into_iter().chain(others) {
            match endpoints[index].breaker.admit() {
                Ok(permit) => return Ok((index, permit)),
                Err(refused) => {
                    let wait = refused.retry_after();
                    soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait)));
                }
            }
        }
        let retry_after = soonest.unwrap_or(Duration::from_secs(1));
        Err(CallError::Unavailable { peer: self.inner.name, retry_after })
    }

    fn prepare(
        &self,
        mut request: Request<Body>,
        endpoint: &Endpoint,
        span: Option<&OutgoingCall>,
    ) -> Request<Body> {
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(HOST, endpoint.host.clone());
        headers.insert(INTERNAL, self.inner.token.header());
        if let Some(span) = span {
            headers.insert(TRACEPARENT, span.context().to_header());
        }
        request
    }

    /// Probes every endpoint until `stop`. All at once, each with a limit; the next round begins
    /// after the last one has ended.
    pub async fn probe(self, stop: CancellationToken) {
        loop {
            let probes = self.inner.endpoints.iter().map(|endpoint| endpoint.probe(self.inner.name));
            tokio::select! {
                () = stop.cancelled() => return,
                _ = futures_util::future::join_all(probes) => {}
            }
            let well = |endpoint: &Endpoint| endpoint.condition() == Condition::Healthy;
            let every = if self.inner.endpoints.iter().all(well) { PROBE_EVERY } else { PROBE_ANXIOUSLY };
            let pause = every.mul_f64(0.9 + 0.2 * rand::random::<f64>());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// A call that waits for the head of its answer.
struct Waiting {
    permit: Option<Permit>,
    since: Instant,
}

impl Waiting {
    fn new(permit: Permit) -> Self {
        Self { permit: Some(permit), since: Instant::now() }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            permit.end(outcome);
        }
    }
}

impl Drop for Waiting {
    /// The caller gave up. A peer that hangs must not stay in use because nobody waits to the end.
    fn drop(&mut self) {
        if self.since.elapsed() >= PATIENCE {
            self.end(Outcome::Failure);
        }
    }
}

/// What is needed to make a request without a body again.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn of(request: &Request<Body>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}
