//! One endpoint of a peer: its connections, its breaker, its probes, and what calls showed of it.

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
    Condition,
    balance::{Candidate, Latency, Standing},
    health::Health,
    pool::{Pool, PooledBody, SendError},
};

/// How long a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Most that is read of the answer to a probe.
const PROBE_BYTES: usize = 64 * 1024;
/// How long an answer's body may pause.
const SILENCE: Duration = Duration::from_mins(2);

pub(super) struct Endpoint {
    pub(super) address: String,
    /// The address as the `Host` of a request.
    pub(super) host: HeaderValue,
    pub(super) breaker: Breaker,
    pool: Pool,
    in_flight: Arc<AtomicUsize>,
    seen: Mutex<Seen>,
}

struct Seen {
    latency: Option<(Latency, Instant)>,
    health: Health,
    ready_since: Instant,
}

/// What an endpoint shows.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSnapshot {
    /// `host:port`.
    pub address: String,
    /// By its probes.
    pub health: Condition,
    /// Calls on their way.
    pub in_flight: usize,
    /// Mean latency of its calls in milliseconds.
    pub avg_latency: Option<f64>,
}

impl Endpoint {
    /// The endpoint at `address` (`host:port`); none if that cannot be the host of a request.
    pub(super) fn new(address: &str, peer: &str, settings: &Live<Settings>) -> Option<Self> {
        Some(Self {
            address: address.to_owned(),
            host: HeaderValue::from_str(address).ok()?,
            breaker: Breaker::new(peer, settings.clone()),
            pool: Pool::new(address),
            in_flight: Arc::default(),
            seen: Mutex::new(Seen { latency: None, health: Health::default(), ready_since: Instant::now() }),
        })
    }

    pub(super) fn condition(&self) -> Condition {
        self.seen.lock().health.condition()
    }

    pub(super) fn snapshot(&self) -> EndpointSnapshot {
        let seen = self.seen.lock();
        EndpointSnapshot {
            address: self.address.clone(),
            health: seen.health.condition(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            avg_latency: seen.latency.map(|(latency, _)| latency.mean_ms()),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match (self.breaker.would_admit(), self.condition()) {
            (false, _) => Standing::Refusing,
            (true, Condition::Unhealthy) => Standing::Doubtful,
            (true, _) => Standing::Well,
        }
    }

    pub(super) fn candidate(&self) -> Candidate {
        let seen = self.seen.lock();
        Candidate {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            latency_ms: seen.latency.map(|(latency, at)| latency.believed_ms(at.elapsed())),
            ready_for: seen.ready_since.elapsed(),
        }
    }

    /// Counts a call as under way until the result is dropped.
    pub(super) fn begin(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<PooledBody>, SendError> {
        self.pool.send(request).await
    }

    /// Takes the latency of a call that was answered.
    pub(super) fn measured(&self, took: Duration) {
        let mut seen = self.seen.lock();
        let before = seen.latency.map(|(latency, at)| (latency, at.elapsed()));
        seen.latency = Some((Latency::with(before, took), Instant::now()));
    }

    /// Asks once whether the endpoint is ready.
    pub(super) async fn probe(&self, peer: &str) {
        self.pool.prune();
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/readyz");
        request.headers_mut().insert(HOST, self.host.clone());
        let answer = async {
            let answer = self.pool.send(request).await.ok()?;
            let success = answer.status().is_success();
            // Read to its end, so that the connection can be used again.
            Limited::new(answer.into_body(), PROBE_BYTES).collect().await.ok().map(|_| success)
        };
        let success = tokio::time::timeout(PROBE_LIMIT, answer).await == Ok(Some(true));
        let mut seen = self.seen.lock();
        if let Some((from, to)) = seen.health.observe(success) {
            if from == Condition::Unhealthy {
                seen.ready_since = Instant::now();
            }
            if (from, to) == (Condition::Unknown, Condition::Healthy) {
                tracing::debug!(peer, endpoint = self.address, "endpoint is well");
            } else {
                tracing::info!(peer, endpoint = self.address, ?from, ?to, "endpoint changed");
            }
        }
    }
}

/// A call under way.
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project! {
    /// A body that counts as a call under way until it is done, and that may not pause for ever.
    pub(super) struct CountedBody {
        #[pin]
        body: PooledBody,
        in_flight: InFlight,
        // Only made when the body makes us wait.
        patience: Option<Pin<Box<Sleep>>>,
    }
}

impl CountedBody {
    pub(super) fn new(body: PooledBody, in_flight: InFlight) -> Self {
        Self { body, in_flight, patience: None }
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
            *this.patience = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let patience = this.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(SILENCE)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Some(Err(BoxError::from(format!("the peer paused for {} s", SILENCE.as_secs())))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
