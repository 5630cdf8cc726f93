//! One endpoint of a peer: its connections, circuit breaker, probes, and latency.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::HOST};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use phase6_breaker::{Breaker, Settings};
use phase6_live::Live;
use pin_project_lite::pin_project;
use serde::Serialize;
use tokio::time::Sleep;

use super::{
    EndpointHealth,
    balance::{Candidate, EndpointState},
    health::{HealthTracker, Transition},
    latency::LatencyEwma,
    pool::{Pool, PooledBody, SendError},
};

/// Longest time of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest response to a probe, in bytes.
const MAX_PROBE_BYTES: usize = 64 * 1024;
/// Longest pause between two frames of a response's body.
const BODY_TIMEOUT: Duration = Duration::from_mins(2);

/// An endpoint of a peer.
pub(super) struct Endpoint {
    pub(super) address: String,
    /// The address as the `Host` of a request.
    pub(super) host: HeaderValue,
    pub(super) breaker: Breaker,
    pool: Pool,
    in_flight: Arc<AtomicUsize>,
    observations: Mutex<Observations>,
}

/// Observations of an endpoint from its calls and probes.
struct Observations {
    /// `None` until the first call succeeds.
    latency: Option<MeasuredLatency>,
    health: HealthTracker,
    ready_since: Instant,
}

#[derive(Clone, Copy)]
struct MeasuredLatency {
    ewma: LatencyEwma,
    last_call: Instant,
}

/// Snapshot of an endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSnapshot {
    /// `host:port`.
    pub address: String,
    /// Health according to readiness probes.
    pub health: EndpointHealth,
    /// Calls in flight.
    pub in_flight: usize,
    /// Mean latency of calls in milliseconds.
    pub avg_latency: Option<f64>,
}

impl Endpoint {
    /// Creates the endpoint at `address` (`host:port`); `None` if that is not a valid `Host` header.
    pub(super) fn new(address: &str, peer: &str, breaker: &Live<Settings>) -> Option<Self> {
        let observations =
            Observations { latency: None, health: HealthTracker::default(), ready_since: Instant::now() };
        Some(Self {
            address: address.to_owned(),
            host: HeaderValue::from_str(address).ok()?,
            breaker: Breaker::new(peer, breaker.clone()),
            pool: Pool::new(address),
            in_flight: Arc::default(),
            observations: Mutex::new(observations),
        })
    }

    pub(super) fn health(&self) -> EndpointHealth {
        self.observations.lock().health.health()
    }

    pub(super) fn snapshot(&self) -> EndpointSnapshot {
        let observations = self.observations.lock();
        EndpointSnapshot {
            address: self.address.clone(),
            health: observations.health.health(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            avg_latency: observations.latency.map(|latency| latency.ewma.mean_ms()),
        }
    }

    /// State for the balancer.
    pub(super) fn state(&self) -> EndpointState {
        match (self.breaker.would_admit(), self.health()) {
            (false, _) => EndpointState::Open,
            (true, EndpointHealth::Unhealthy) => EndpointState::Suspect,
            (true, _) => EndpointState::Healthy,
        }
    }

    /// Figures for the balancer.
    pub(super) fn candidate(&self) -> Candidate {
        let observations = self.observations.lock();
        Candidate {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            latency_ms: observations
                .latency
                .map(|latency| latency.ewma.decayed_ms(latency.last_call.elapsed())),
            ready_for: observations.ready_since.elapsed(),
        }
    }

    /// Counts a call as in flight until the result is dropped.
    pub(super) fn begin_call(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Sends a request and returns the head of its response.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<PooledBody>, SendError> {
        self.pool.send(request).await
    }

    /// Records the latency of a successful call.
    pub(super) fn record_latency(&self, latency: Duration) {
        let mut observations = self.observations.lock();
        let ewma = match observations.latency {
            Some(before) => before.ewma.add(latency, before.last_call.elapsed()),
            None => LatencyEwma::first(latency),
        };
        observations.latency = Some(MeasuredLatency { ewma, last_call: Instant::now() });
    }

    /// Probes the readiness of the endpoint, and closes connections that have been idle for too long.
    pub(super) async fn probe(&self, peer: &str) {
        self.pool.prune();
        let success = tokio::time::timeout(PROBE_TIMEOUT, self.is_ready()).await == Ok(true);
        let mut observations = self.observations.lock();
        let Some(Transition { from, to }) = observations.health.record(success) else { return };
        if from == EndpointHealth::Unhealthy {
            observations.ready_since = Instant::now();
        }
        if (from, to) == (EndpointHealth::Unknown, EndpointHealth::Healthy) {
            tracing::debug!(peer, endpoint = self.address, "endpoint is healthy");
        } else {
            tracing::info!(peer, endpoint = self.address, ?from, ?to, "endpoint health changed");
        }
    }

    async fn is_ready(&self) -> bool {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/readyz");
        request.headers_mut().insert(HOST, self.host.clone());
        let Ok(response) = self.pool.send(request).await else { return false };
        let is_success = response.status().is_success();
        // Read to its end, so that the connection returns to the pool.
        let body = Limited::new(response.into_body(), MAX_PROBE_BYTES).collect().await;
        is_success && body.is_ok()
    }
}

/// Counts a call as in flight until it is dropped.
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project! {
    /// Body of a response. Its call counts as in flight until it is dropped, and its pauses are limited.
    pub(super) struct CountedBody {
        #[pin]
        body: PooledBody,
        in_flight: InFlight,
        // Created when a frame is not ready at once.
        timeout: Option<Pin<Box<Sleep>>>,
    }
}

impl CountedBody {
    pub(super) fn new(body: PooledBody, in_flight: InFlight) -> Self {
        Self { body, in_flight, timeout: None }
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            *this.timeout = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let timeout = this.timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_TIMEOUT)));
        ready!(timeout.as_mut().poll(cx));
        let message = format!("the peer paused for {} s in the response's body", BODY_TIMEOUT.as_secs());
        Poll::Ready(Some(Err(BoxError::from(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
