//! A connection without a network, for `fuzz/`. Exists only with `--cfg fuzzing`.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::response::Response;
use http::{Request, request::Parts};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::service_fn;

use super::{BodyLimits, RequestBody, connection::serve_connection, progress::Progress};

/// Socket of a client that sends given bytes.
struct Wire<'a> {
    /// Bytes that are not yet read.
    input: &'a [u8],
    /// True if the client closes after `input`; otherwise it stays silent.
    is_closed: &'a Cell<bool>,
    /// Bytes that were written to the client.
    output: &'a Mutex<Vec<u8>>,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.input.is_empty() && !self.is_closed.get() {
            return Poll::Pending;
        }
        let (now, later) = self.input.split_at(self.input.len().min(buf.remaining()));
        buf.put_slice(now);
        self.input = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.lock().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Serves a client that sends `input`, and closes once everything is handled. Every request gets an empty
/// 200. Returns the heads of the requests, and all bytes that were written to the client.
///
/// # Panics
///
/// If the connection stays open although the client has closed.
pub fn connection(input: &[u8]) -> (Vec<Parts>, Vec<u8>) {
    let (heads, output) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let stack = service_fn(|request: Request<RequestBody>| {
        heads.lock().push(request.into_parts().0);
        std::future::ready(Ok::<_, Infallible>(Response::default()))
    });
    let progress = Arc::new(Progress::new(Arc::new(AtomicBool::new(false)), Duration::MAX));
    {
        let is_closed = Cell::new(false);
        let wire = Wire { input, is_closed: &is_closed, output: &output };
        let mut connection = pin!(serve_connection(wire, stack, &progress, BodyLimits::default()));
        let mut context = Context::from_waker(Waker::noop());
        let has_ended = connection.as_mut().poll(&mut context).is_ready();
        is_closed.set(true);
        assert!(has_ended || connection.poll(&mut context).is_ready(), "the connection stays open");
    }
    (heads.into_inner(), output.into_inner())
}
