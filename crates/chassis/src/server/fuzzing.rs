//! A connection without a network, for `fuzz/`. Exists only with `--cfg fuzzing`.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake},
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

/// True once the connection asks to be polled again: hyper yields after some requests of a pipeline.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Woken {
    /// Polls until the connection has ended, or waits for the client. Returns true if it has ended.
    fn poll(self: &Arc<Self>, mut connection: Pin<&mut impl Future>) -> bool {
        let waker = Arc::clone(self).into();
        loop {
            self.0.store(false, Ordering::Relaxed);
            if connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return true;
            }
            if !self.0.load(Ordering::Relaxed) {
                return false;
            }
        }
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
        let woken = Arc::<Woken>::default();
        let has_ended = woken.poll(connection.as_mut());
        is_closed.set(true);
        assert!(has_ended || woken.poll(connection), "the connection stays open");
    }
    (heads.into_inner(), output.into_inner())
}
