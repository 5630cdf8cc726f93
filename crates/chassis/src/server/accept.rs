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
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::{HeaderValue, Request, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
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
    /// Longest time between two requests. More than the 90 seconds for which most clients keep an idle
    /// connection: whoever closes first never loses a request.
    pub idle: Duration,
    /// Longest time that the peer may leave an answer unread.
    pub write_stall: Duration,
    /// The first answer after about this time is a connection's last one.
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
            idle: Duration::from_mins(2),
            write_stall: Duration::from_secs(30),
            max_age: Duration::from_mins(10),
            body: BodyLimits::default(),
        }
    }
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");
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

/// How a server ends, step by step.
#[derive(Clone, Default)]
pub(crate) struct Ending {
    /// Every answer asks its caller to connect anew, elsewhere. What is idle stays open: to close it
    /// would lose a request that is just being sent on it.
    pub(crate) leaving: Arc<AtomicBool>,
    /// No connection is accepted, what is idle is closed, and requests under way are finished.
    pub(crate) stop: CancellationToken,
    /// No request is waited for.
    pub(crate) cut: CancellationToken,
}

/// Accepts connections until it is told to stop. Returns when none is left. `stack` makes the service
/// that answers the requests of one peer's connection.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    stack: impl Fn(SocketAddr) -> S,
    limits: ConnectionLimits,
    counts: Arc<ConnectionCounts>,
    ending: Ending,
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
            () = ending.stop.cancelled() => break,
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
        let connection = Connection { limits: limits.clone(), open, ending: ending.clone(), peer };
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
    ending: Ending,
    peer: SocketAddr,
}

impl Connection {
    async fn run<S>(self, socket: TcpStream, stack: S)
    where
        S: Service<Request<RequestBody>, Response = Response, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
    {
        let _ = socket.set_nodelay(true);
        // Connections opened together do not end together.
        let max_age = self.limits.max_age.mul_f64(0.9 + 0.2 * rand::random::<f64>());
        let progress = Arc::new(Progress::new(Arc::clone(&self.ending.leaving), max_age));
        let mut connection = pin!(driver(socket, stack, &progress, self.limits.body));
        let mut stopping = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(peer = %self.peer, %error, "connection ended");
                    }
                    return;
                }
                () = self.ending.cut.cancelled() => return,
                () = self.ending.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(WATCH) => {
                    if self.waited_too_long(&progress) {
                        self.open.counts.timed_out.fetch_add(1, Ordering::Relaxed);
                        return;
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

/// Reads requests from a connection, has the stack answer them, and writes the answers.
pub(super) fn driver<T, S>(
    socket: T,
    stack: S,
    progress: &Arc<Progress>,
    body: BodyLimits,
) -> http1::Connection<TokioIo<WatchedIo<T>>, Handler<S>>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<RequestBody>, Response = Response, Error = Infallible>,
{
    let io = TokioIo::new(WatchedIo::new(socket, Arc::clone(progress)));
    let handler = Handler { stack: RefCell::new(stack), progress: Arc::clone(progress), body };
    http1::Builder::new().max_buf_size(READ_BUFFER).serve_connection(io, handler)
}

/// Hands the requests of one connection to the stack, one after another.
pub(super) struct Handler<S> {
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
    pub(super) struct Answering<F> {
        #[pin]
        future: F,
        progress: Option<Arc<Progress>>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Answering<F> {
    type Output = Result<http::Response<AnswerBody<Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let this = self.project();
        let Ok(mut answer) = std::task::ready!(this.future.poll(cx));
        let progress = this.progress.take().expect("a future is not polled after it is done");
        if progress.is_last() {
            answer.headers_mut().insert(CONNECTION, CLOSE);
        }
        std::task::Poll::Ready(Ok(answer.map(|body| AnswerBody::new(body, progress))))
    }
}
