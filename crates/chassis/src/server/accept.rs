//! The accept loop and what watches over each connection.
//!
//! `axum::serve` keeps silent and half-open connections for ever; here every wait has an end: for
//! the first byte, for a whole head, for a body, for the peer to read, between requests, and for
//! the life of a connection. A connection over a cap is closed at once.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::Request;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use super::{
    body::{AnswerBody, BodyLimits, RequestBody},
    io::WatchedIo,
    phase::{Phase, Progress},
};

/// Bounds on connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most of them from one address, so that one cannot lock out all others.
    pub max_per_peer: usize,
    /// Connections that one address may open per second, and ten times as many in a burst.
    pub accepts_per_second: u32,
    /// Longest wait for the first byte.
    pub first_byte: Duration,
    /// Longest wait for the rest of a head.
    pub head: Duration,
    /// Longest time between two requests.
    pub idle: Duration,
    /// Longest time that the peer may leave an answer unread.
    pub write_stall: Duration,
    /// After about this time a connection ends with its current request.
    pub max_age: Duration,
    /// Bounds on bodies.
    pub body: BodyLimits,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            max_per_peer: 4096,
            accepts_per_second: 1000,
            first_byte: Duration::from_secs(8),
            head: Duration::from_secs(8),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            max_age: Duration::from_mins(10),
            body: BodyLimits::default(),
        }
    }
}

/// Largest head that is read at all; the stack answers far smaller ones with 431.
const READ_BUFFER: usize = 128 * 1024;
/// How often a connection's waits are looked at.
const WATCH: Duration = Duration::from_secs(1);

/// What a server counts.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Connections open now.
    pub open: AtomicUsize,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once because of a cap.
    pub refused: AtomicU64,
    /// Connections closed because a wait was too long.
    pub timed_out: AtomicU64,
    /// Connections open now, by subscriber.
    by_peer: Mutex<HashMap<Subscriber, usize>>,
}

/// The part of an address that stands for one subscriber.
type Subscriber = [u8; 8];

/// Accepts connections until `stop`, then lets each finish its request. Returns when none is left.
/// `stack` makes the service that answers the requests of one peer's connection. After `cut` no
/// request is waited for.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    stack: impl Fn(SocketAddr) -> S,
    limits: ConnectionLimits,
    counts: Arc<ConnectionCounts>,
    stop: CancellationToken,
    cut: CancellationToken,
) where
    S: Service<Request<RequestBody>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let connections = TaskTracker::new();
    let rate = NonZeroU32::new(limits.accepts_per_second).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::new(10).expect("ten")));
    let per_peer: DefaultKeyedRateLimiter<Subscriber> = RateLimiter::keyed(quota);
    let log: DefaultDirectRateLimiter = RateLimiter::direct(Quota::per_second(NonZeroU32::MIN));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was accepted.
                if log.check().is_ok() {
                    tracing::warn!(%error, "accepting a connection failed");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        if per_peer.len() > 10_000 {
            per_peer.retain_recent();
        }
        let subscriber = subscriber(peer.ip());
        let full = counts.open.load(Ordering::Relaxed) >= limits.max_connections;
        let open = (!full && per_peer.check_key(&subscriber).is_ok())
            .then(|| Open::new(&counts, subscriber, limits.max_per_peer))
            .flatten();
        let Some(open) = open else {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            if log.check().is_ok() {
                tracing::warn!(peer = %peer.ip(), full, "connection refused: too many");
            }
            continue;
        };
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        let connection =
            Connection { limits: limits.clone(), open, stop: stop.clone(), cut: cut.clone(), peer };
        connections.spawn(connection.run(socket, stack(peer)));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn subscriber(address: IpAddr) -> Subscriber {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(v6) => v6.octets()[..8].try_into().expect("eight of sixteen bytes"),
    }
}

struct Connection {
    limits: ConnectionLimits,
    open: Open,
    stop: CancellationToken,
    cut: CancellationToken,
    peer: SocketAddr,
}

impl Connection {
    async fn run<S>(self, socket: TcpStream, stack: S)
    where
        S: Service<Request<RequestBody>, Response = Response, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
    {
        let _ = socket.set_nodelay(true);
        let progress = Arc::new(Progress::new());
        let io = TokioIo::new(WatchedIo::new(socket, Arc::clone(&progress)));
        let handler =
            Handler { stack: RefCell::new(stack), progress: Arc::clone(&progress), body: self.limits.body };
        let mut connection =
            pin!(http1::Builder::new().max_buf_size(READ_BUFFER).serve_connection(io, handler));
        let mut ending = false;
        // Connections opened together do not end together.
        let max_age = self.limits.max_age.mul_f64(0.9 + 0.2 * rand::random::<f64>());
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(peer = %self.peer, %error, "connection ended");
                    }
                    return;
                }
                () = self.cut.cancelled() => return,
                () = self.stop.cancelled(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(WATCH) => {
                    if self.waited_too_long(&progress) {
                        self.open.counts.timed_out.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    if !ending && progress.age() > max_age {
                        ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }

    fn waited_too_long(&self, progress: &Progress) -> bool {
        let limit = match progress.phase() {
            Phase::Idle if progress.requests() == 0 => self.limits.first_byte,
            Phase::Idle => self.limits.idle,
            Phase::Head => self.limits.head,
            Phase::Busy | Phase::Flushing => return progress.blocked_for() > self.limits.write_stall,
        };
        progress.waiting() > limit
    }
}

/// Counts a connection as open while it lives.
struct Open {
    counts: Arc<ConnectionCounts>,
    subscriber: Subscriber,
}

impl Open {
    /// None: the subscriber has `most` already.
    fn new(counts: &Arc<ConnectionCounts>, subscriber: Subscriber, most: usize) -> Option<Self> {
        let mut by_peer = counts.by_peer.lock();
        let open = by_peer.entry(subscriber).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        counts.open.fetch_add(1, Ordering::Relaxed);
        Some(Self { counts: Arc::clone(counts), subscriber })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_peer = self.counts.by_peer.lock();
        if let Some(open) = by_peer.get_mut(&self.subscriber) {
            *open -= 1;
            if *open == 0 {
                by_peer.remove(&self.subscriber);
            }
        }
    }
}

/// Hands the requests of one connection to the stack, one after another.
struct Handler<S> {
    /// HTTP/1 has one request at a time, so one stack serves a connection without being cloned.
    stack: RefCell<S>,
    progress: Arc<Progress>,
    body: BodyLimits,
}

impl<S> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Service<Request<RequestBody>, Response = Response, Error = Infallible>,
{
    type Response = http::Response<AnswerBody<Body>>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.progress.enter(Phase::Busy);
        let request = request.map(|incoming| RequestBody::new(incoming, self.body));
        // The stack is always ready: its layers refuse in `call`.
        let future = self.stack.borrow_mut().call(request);
        Answering { future, progress: Some(Arc::clone(&self.progress)) }
    }
}

pin_project_lite::pin_project! {
    /// An answer in the making.
    struct Answering<F> {
        #[pin]
        future: F,
        progress: Option<Arc<Progress>>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Answering<F> {
    type Output = Result<http::Response<AnswerBody<Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let this = self.project();
        let Ok(answer) = std::task::ready!(this.future.poll(cx));
        let progress = this.progress.take().expect("a future is not polled after it is done");
        std::task::Poll::Ready(Ok(answer.map(|body| AnswerBody::new(body, progress))))
    }
}
