//! The connection pool of one endpoint.
//!
//! The future that uses a connection also drives it: the call until the head of the response has arrived, then
//! the reader of the body. No spawned task moves bytes between the two, and a cancelled call closes its
//! connection. The connection returns to the pool when the body has been read to its end. An idle connection
//! that turns out to be closed is replaced, as long as the request has not been sent.

use std::{
    future::poll_fn,
    io,
    net::ToSocketAddrs,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Largest number of idle connections.
const MAX_IDLE: usize = 128;
/// Time after which an idle connection is not used again; shorter than the idle limits of servers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP keepalive: probes a silent peer after 20 s and then every 5 s, and gives up after three probes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(20))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);
/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Idle connections to one endpoint. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    address: String,
    /// Sorted by the time at which they became idle.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection: the end that sends requests, and the driver that moves the bytes.
///
/// Everything on a connection happens while its user drives it, so only the socket needs to wake the user's
/// task. The other ends are polled with a waker that does nothing, and so is the driver while it makes progress.
/// Otherwise driver and ends would wake the task that is polling them, which would then be polled again without
/// need.
struct Connection {
    sender: SendRequest<Body>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Body>>>,
    /// True once the driver has completed.
    ended: bool,
}

const NOOP: &Waker = Waker::noop();

impl Connection {
    /// Moves bytes until the socket is not ready.
    fn drive(&mut self, waker: &Waker) {
        // The sending end reports the error of the driver, if there is one.
        self.ended = self.ended || self.driver.as_mut().poll(&mut Context::from_waker(waker)).is_ready();
    }

    /// Polls `end`, and drives the connection, until `end` is ready or the socket is not.
    fn poll<T>(&mut self, cx: &Context<'_>, mut end: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        for waker in [NOOP, cx.waker()] {
            self.drive(waker);
            let polled = end(&mut Context::from_waker(NOOP));
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }

    /// True if the connection accepts a request. Notices if the peer has closed it while it was idle.
    fn is_ready(&mut self) -> bool {
        self.drive(NOOP);
        !self.ended && self.sender.is_ready()
    }

    /// Sends a request and returns the head of its response.
    async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let mut sent = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| self.poll(cx, |noop| sent.as_mut().poll(noop))).await
    }
}

/// Failure to send a request or to receive the head of its response.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The request was not sent, so any endpoint may be tried with it, whether it is idempotent or not.
    Unsent(Box<Request<Body>>, io::Error),
    /// The peer may have received the request.
    Sent(hyper::Error),
}

impl Pool {
    pub(crate) fn new(address: &str) -> Self {
        Self { inner: Arc::new(Inner { address: address.to_owned(), idle: Mutex::default() }) }
    }

    /// Sends a request over an idle or a new connection, and returns the head of its response.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Response<PooledBody>, SendError> {
        loop {
            let (mut connection, reused) = match self.take_idle() {
                Some(connection) => (connection, true),
                None => match self.connect().await {
                    Ok(connection) => (connection, false),
                    Err(error) => return Err(SendError::Unsent(Box::new(request), error)),
                },
            };
            match connection.send(request).await {
                Ok(response) => {
                    return Ok(response.map(|incoming| PooledBody::new(incoming, self.clone(), connection)));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(unsent) => {
                        let closed = io::Error::new(io::ErrorKind::ConnectionAborted, error.into_error());
                        return Err(SendError::Unsent(Box::new(unsent), closed));
                    }
                    None => return Err(SendError::Sent(error.into_error())),
                },
            }
        }
    }

    /// Closes connections that have been idle for longer than the timeout.
    pub(crate) fn prune(&self) {
        self.inner.idle.lock().retain(|idle| idle.since.elapsed() < IDLE_TIMEOUT);
    }

    fn take_idle(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.inner.idle.lock().pop()?;
            if since.elapsed() < IDLE_TIMEOUT && connection.is_ready() {
                return Some(connection);
            }
        }
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.inner.idle.lock();
        if idle.len() < MAX_IDLE && !connection.ended {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<Connection, io::Error> {
        let connecting = async {
            let socket = TcpStream::connect(resolve(&self.inner.address).await?.as_slice()).await?;
            socket.set_nodelay(true)?;
            // Detects a peer whose machine has disappeared without closing the connection.
            SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE)?;
            let (sender, driver) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
            Ok(Connection { sender, driver: Box::pin(driver), ended: false })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out")))
    }
}

/// Resolves `host:port`. Names are looked up again for every connection.
async fn resolve(address: &str) -> io::Result<Vec<std::net::SocketAddr>> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let address = address.to_owned();
    tokio::task::spawn_blocking(move || Ok(address.to_socket_addrs()?.collect()))
        .await
        .map_err(io::Error::other)?
}

/// Body of a response over a pooled connection.
pub(crate) struct PooledBody {
    incoming: Incoming,
    pool: Pool,
    /// `None` once the connection has returned to the pool.
    connection: Option<Connection>,
}

impl PooledBody {
    fn new(incoming: Incoming, pool: Pool, connection: Connection) -> Self {
        let mut body = Self { incoming, pool, connection: Some(connection) };
        if body.is_end_stream() {
            body.release();
        }
        body
    }

    /// Returns the connection to the pool.
    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put_idle(connection);
        }
    }
}

impl http_body::Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
        let mut incoming = Pin::new(&mut this.incoming);
        // A part of the body may have arrived with the head.
        let mut polled = incoming.as_mut().poll_frame(&mut Context::from_waker(NOOP));
        if polled.is_pending() {
            polled = connection.poll(cx, |noop| incoming.as_mut().poll_frame(noop));
        }
        let frame = ready!(polled);
        // The end of a chunked body is known only after its last frame.
        if frame.is_none() || this.is_end_stream() {
            this.release();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
