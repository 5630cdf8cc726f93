//! The accept loop: accepts connections within limits until the server shuts down.
//!
//! A connection over a limit is closed at once. The time limits of accepted connections are enforced by
//! [`Connection`].

use std::{convert::Infallible, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::response::Response;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::Request;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::{
    ConnectionCounts, ConnectionLimits, RequestBody, Shutdown,
    connection::Connection,
    counts::{ClientPrefix, OpenConnection},
};

/// Bursts of accepts, as a multiple of the accepts per second.
const BURST_FACTOR: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");
/// Number of client prefixes in the rate limiter above which idle ones are removed.
const MAX_TRACKED_PREFIXES: usize = 10_000;
/// Pause after a failed accept.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections until `shutdown` stops it, and returns once the last one is closed.
///
/// `stack_for` returns the service that handles the requests of a connection from a client.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    stack_for: impl Fn(SocketAddr) -> S,
    limits: ConnectionLimits,
    counts: Arc<ConnectionCounts>,
    shutdown: Shutdown,
) where
    S: Service<Request<RequestBody>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let connections = TaskTracker::new();
    let admission = Admission::new(&limits, counts);
    let log_rate: DefaultDirectRateLimiter = RateLimiter::direct(Quota::per_second(NonZeroU32::MIN));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.stop.cancelled() => break,
        };
        let (socket, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // No file descriptor is left, or the client closed before the accept.
                if log_rate.check().is_ok() {
                    tracing::warn!(%error, "failed to accept a connection");
                }
                tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                continue;
            }
        };
        match admission.admit(client) {
            Ok(open) => {
                let connection =
                    Connection { limits: limits.clone(), open, shutdown: shutdown.clone(), client };
                connections.spawn(connection.run(socket, stack_for(client)));
            }
            Err(limit) => {
                if log_rate.check().is_ok() {
                    tracing::warn!(client = %client.ip(), limit, "connection refused: limit reached");
                }
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Decides which connections are accepted.
struct Admission {
    max_connections: usize,
    max_per_prefix: usize,
    counts: Arc<ConnectionCounts>,
    rate: DefaultKeyedRateLimiter<ClientPrefix>,
}

impl Admission {
    fn new(limits: &ConnectionLimits, counts: Arc<ConnectionCounts>) -> Self {
        let per_second = NonZeroU32::new(limits.accepts_per_second).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(per_second).allow_burst(per_second.saturating_mul(BURST_FACTOR));
        Self {
            max_connections: limits.max_connections,
            max_per_prefix: limits.max_per_client,
            counts,
            rate: RateLimiter::keyed(quota),
        }
    }

    /// Counts a connection as open, or as refused; the error names the limit.
    fn admit(&self, client: SocketAddr) -> Result<OpenConnection, &'static str> {
        if self.rate.len() > MAX_TRACKED_PREFIXES {
            self.rate.retain_recent();
        }
        let prefix = ClientPrefix::from(client.ip());
        let open = if self.counts.open() >= self.max_connections {
            Err("connections in total")
        } else if self.rate.check_key(&prefix).is_err() {
            Err("connections per second and client")
        } else {
            self.counts.try_open(prefix, self.max_per_prefix).ok_or("connections per client")
        };
        match open {
            Ok(_) => self.counts.count_accepted(),
            Err(_) => self.counts.count_refused(),
        }
        open
    }
}
