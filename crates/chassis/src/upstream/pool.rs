//! Connections to one endpoint, kept for the next call.
//!
//! A connection comes back when the answer's body has been read to its end; one whose answer was
//! given up is closed. An idle connection that turns out to be closed is replaced without the
//! caller noticing, as long as the request has not been sent.

use std::{
    io,
    net::ToSocketAddrs,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::net::TcpStream;

/// Most connections kept idle.
const MOST_IDLE: usize = 128;
/// A connection idle for longer is not used again; below what servers allow.
const IDLE: Duration = Duration::from_secs(30);
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(2);

/// Connections to one endpoint.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    address: String,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: SendRequest<Body>,
    since: Instant,
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
            match connection.try_send_request(request).await {
                Ok(answer) => {
                    let back = Back { pool: self.clone(), connection: Some(connection) };
                    return Ok(answer.map(|incoming| PooledBody::new(incoming, back)));
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

    fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.inner.idle.lock();
        while let Some(Idle { connection, since }) = idle.pop() {
            if connection.is_ready() && since.elapsed() < IDLE {
                return Some(connection);
            }
            if since.elapsed() >= IDLE {
                // The ones below are older still.
                idle.clear();
            }
        }
        None
    }

    fn put_idle(&self, connection: SendRequest<Body>) {
        let mut idle = self.inner.idle.lock();
        if idle.len() < MOST_IDLE && !connection.is_closed() {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, io::Error> {
        let connecting = async {
            let socket = TcpStream::connect(resolve(&self.inner.address).await?.as_slice()).await?;
            socket.set_nodelay(true)?;
            let (connection, driver) =
                http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
            tokio::spawn(async move {
                // Its end is seen by the side that sends.
                let _ = driver.await;
            });
            Ok(connection)
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

/// Gives a connection back when the body is done.
struct Back {
    pool: Pool,
    connection: Option<SendRequest<Body>>,
}

impl Back {
    fn give(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put_idle(connection);
        }
    }
}

pin_project! {
    /// The body of an answer over a pooled connection.
    pub(crate) struct PooledBody {
        #[pin]
        incoming: Incoming,
        back: Back,
    }
}

impl PooledBody {
    fn new(incoming: Incoming, mut back: Back) -> Self {
        if incoming.is_end_stream() {
            back.give();
        }
        Self { incoming, back }
    }
}

impl http_body::Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.incoming.as_mut().poll_frame(cx));
        if frame.is_none() || this.incoming.is_end_stream() {
            this.back.give();
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
