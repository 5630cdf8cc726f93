//! One connection: requests in, responses out, with an end to every wait.
//!
//! `axum::serve` keeps silent and half-open connections forever. Here a watchdog bounds the wait for the first
//! byte, for a whole head, for the client to read, between requests, and the life of the connection. The wait
//! for a request body is bounded by [`RequestBody`].

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::{HeaderValue, Request, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tower::Service;

use super::{
    BodyLimits, ConnectionLimits, RequestBody, Shutdown,
    body::ResponseBody,
    counts::OpenConnection,
    io::WatchedIo,
    progress::{Phase, Progress},
};
use crate::stack::{MapResponse, ResponseMap};

const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Largest head that is read at all, in bytes. The stack rejects much smaller ones with 431.
const MAX_READ_BUFFER: usize = 128 * 1024;
/// Time between two checks of the watchdog.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);

/// An accepted connection.
pub(super) struct Connection {
    pub(super) limits: ConnectionLimits,
    pub(super) open: OpenConnection,
    pub(super) shutdown: Shutdown,
    pub(super) client: SocketAddr,
}

impl Connection {
    /// Serves requests until the client closes the connection, a time limit passes, or the server aborts.
    pub(super) async fn run<S>(self, socket: TcpStream, stack: S)
    where
        S: Service<Request<RequestBody>, Response = Response, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
    {
        let _ = socket.set_nodelay(true);
        // Connections that were opened together must not end together.
        let max_age = self.limits.max_age.mul_f64(0.9 + 0.2 * rand::random::<f64>());
        let progress = Arc::new(Progress::new(Arc::clone(&self.shutdown.drain), max_age));
        let mut connection = pin!(serve_connection(socket, stack, &progress, self.limits.body));
        let mut is_stopping = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(client = %self.client, %error, "connection ended");
                    }
                    return;
                }
                () = self.shutdown.abort.cancelled() => return,
                () = self.shutdown.stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(WATCHDOG_INTERVAL) => {
                    if self.is_timed_out(&progress) {
                        self.open.count_timed_out();
                        return;
                    }
                }
            }
        }
    }

    fn is_timed_out(&self, progress: &Progress) -> bool {
        let limit = match progress.phase() {
            Phase::Idle if progress.requests() == 0 => self.limits.first_byte,
            Phase::Idle => self.limits.idle,
            Phase::Head => self.limits.head,
            Phase::Busy | Phase::Flushing => return progress.stalled_for() > self.limits.write_stall,
        };
        progress.waiting_for() > limit
    }
}

/// Returns the future that reads requests from `socket`, has `stack` handle them, and writes the responses.
pub(super) fn serve_connection<T, S>(
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
    http1::Builder::new().max_buf_size(MAX_READ_BUFFER).serve_connection(io, handler)
}

/// Passes the requests of one connection to the stack.
pub(super) struct Handler<S> {
    /// HTTP/1.1 handles one request at a time, so a connection needs one stack and no clones of it.
    stack: RefCell<S>,
    progress: Arc<Progress>,
    body: BodyLimits,
}

impl<S> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Service<Request<RequestBody>, Response = Response, Error = Infallible>,
{
    type Response = http::Response<ResponseBody<Body>>;
    type Error = Infallible;
    type Future = MapResponse<S::Future, WatchResponse>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.progress.enter(Phase::Busy);
        let request = request.map(|incoming| RequestBody::new(incoming, self.body));
        // The stack is always ready: its layers reject in `call`.
        let response = self.stack.borrow_mut().call(request);
        MapResponse::new(response, WatchResponse { progress: Arc::clone(&self.progress) })
    }
}

/// Watches the body of a response, and marks the last response of a connection.
pub(super) struct WatchResponse {
    progress: Arc<Progress>,
}

impl ResponseMap for WatchResponse {
    type Response = http::Response<ResponseBody<Body>>;

    fn map(self, mut response: Response) -> Self::Response {
        if self.progress.is_last_response() {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        response.map(|body| ResponseBody::new(body, self.progress))
    }
}
