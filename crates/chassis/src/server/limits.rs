//! Limits of connections and of the bodies on them.

use std::time::Duration;

/// Limits of connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Largest number of open connections.
    pub max_connections: usize,
    /// Largest number of open connections from one client prefix, so that no client can lock out all others.
    pub max_per_client: usize,
    /// Connections per second that one client prefix may open; bursts may be ten times as large.
    pub accepts_per_second: u32,
    /// Longest time from the accept to the first byte.
    pub first_byte: Duration,
    /// Longest time from the first byte of a request to the end of its head.
    pub head: Duration,
    /// Longest time from a response to the first byte of the next request. Longer than the 90 s for which most
    /// clients keep an idle connection: a client that closes first loses no request.
    pub idle: Duration,
    /// Longest time for which the client may leave a response unread.
    pub write_stall: Duration,
    /// Age after which the next response is the last one of a connection. Varies by 10 % per connection.
    pub max_age: Duration,
    /// Limits of request bodies.
    pub body: BodyLimits,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            max_per_client: 4096,
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

/// Limits of the body of a request.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Largest body, in bytes.
    pub max_bytes: u64,
    /// Time that the service waits for a body of any rate.
    pub grace: Duration,
    /// Smallest mean rate after `grace`, in bytes per second. Only time that the service waits for the client
    /// counts.
    pub min_bytes_per_second: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { max_bytes: 2 * 1024 * 1024, grace: Duration::from_secs(8), min_bytes_per_second: 1024 }
    }
}
