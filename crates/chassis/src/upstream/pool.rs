//! Connections to one endpoint, kept for the next call.
//!
//! A connection is driven by whoever uses it: the call until the head of the answer is there, then
//! the reader of the body. No task of its own stands between the two, and a call that is given up
//! closes its connection. It comes back when the body has been read to its end. An idle connection
//! that turns out to be closed is replaced without the caller noticing, as long as the request has
//! not been sent.

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

/// Most connections kept idle.
const MOST_IDLE: usize = 128;
/// A connection idle for longer is not used again; below what servers allow.
const IDLE: Duration = Duration::from_secs(30);
/// A peer that is silent for 20 s is asked every 5 s, and given up after three.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(20))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(2);

/// Connections to one endpoint.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    address: String,
    /// The newest last.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection: what sends requests, and what moves the bytes.
///
/// Everything that happens on it happens while its user drives it, so the user's task has to be
/// woken by the socket only. Its other ends are polled with a waker that does nothing, and so is
/// the driver as long as it gets on: otherwise they would have the task woken by itself, to be
/// polled again from the outside in for nothing.
struct Connection {
    sender: SendRequest<Body>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Body>>>,
    ended: bool,
}

const NOBODY: &Waker = Waker::noop();

impl Connection {
    /// Moves bytes as far as they go without waiting.
    fn drive(&mut self, waker: &Waker) {
        // How it ended is told to the side that sends.
        self.ended = self.ended || self.driver.as_mut().poll(&mut Context::from_waker(waker)).is_ready();
    }

    /// Polls one of its other ends until that is ready or the socket is not.
    fn poll<T>(&mut self, cx: &Context<'_>, mut end: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        for waker in [NOBODY, cx.waker()] {
            self.drive(waker);
            let polled = end(&mut Context::from_waker(NOBODY));
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }

    /// Whether it takes a request; notices what happened to it while it was idle.
    fn is_ready(&mut self) -> bool {
        self.drive(NOBODY);
        !self.ended && self.sender.is_ready()
    }

    /// Sends a request and gives the head of its answer.
    async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let mut sent = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| self.poll(cx, |nobody| sent.as_mut().poll(nobody))).await
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// It was not sent: it can go elsewhere, whatever it is.
    Unsent(Box<Request<Body>>, io::Error),
    /// It may have been received.
    Sent(hyper::Error),
}

impl Pool {
    pub(crate) fn new(address: &str) -> Self {
        Self { inner: Arc::new(Inner { address: address.to_owned(), idle: Mutex::default() }) }
    }

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
                Ok(answer) => {
                    return Ok(answer.map(|incoming| PooledBody::new(incoming, self.clone(), connection)));
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

    /// Closes connections that have been idle for too long.
    pub(crate) fn prune(&self) {
        self.inner.idle.lock().retain(|idle| idle.since.elapsed() < IDLE);
    }

    fn take_idle(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.inner.idle.lock().pop()?;
            if since.elapsed() < IDLE && connection.is_ready() {
                return Some(connection);
            }
        }
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.inner.idle.lock();
        if idle.len() < MOST_IDLE && !connection.ended {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<Connection, io::Error> {
        let connecting = async {
            let socket = TcpStream::connect(resolve(&self.inner.address).await?.as_slice()).await?;
            socket.set_nodelay(true)?;
            // A peer whose machine is gone says nothing: the system finds out.
            SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE)?;
            let (sender, driver) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
            Ok(Connection { sender, driver: Box::pin(driver), ended: false })
        };
        tokio::time::timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")))
    }
}

/// The addresses of `host:port`. Names are looked up anew for every connection.
async fn resolve(address: &str) -> io::Result<Vec<std::net::SocketAddr>> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let address = address.to_owned();
    tokio::task::spawn_blocking(move || Ok(address.to_socket_addrs()?.collect()))
        .await
        .map_err(io::Error::other)?
}

/// The body of an answer over a pooled connection.
pub(crate) struct PooledBody {
    incoming: Incoming,
    pool: Pool,
    /// None: it was given back.
    connection: Option<Connection>,
}

impl PooledBody {
    fn new(incoming: Incoming, pool: Pool, connection: Connection) -> Self {
        let mut body = Self { incoming, pool, connection: Some(connection) };
        if body.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
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
        // Some of it may have come with the head.
        let mut polled = incoming.as_mut().poll_frame(&mut Context::from_waker(NOBODY));
        if polled.is_pending() {
            polled = connection.poll(cx, |nobody| incoming.as_mut().poll_frame(nobody));
        }
        let frame = ready!(polled);
        // A chunked body does not know its end before it is there.
        if frame.is_none() || this.is_end_stream() {
            this.give_back();
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
