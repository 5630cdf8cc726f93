//! A door for `fuzz/`, there only with `--cfg fuzzing`: a connection without a network.

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

use super::{
    accept::driver,
    body::{BodyLimits, RequestBody},
    phase::Progress,
};

/// What a client sends, whether it closes then, and what it is told.
struct Wire<'a> {
    sent: &'a [u8],
    closes: &'a Cell<bool>,
    told: &'a Mutex<Vec<u8>>,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.sent.is_empty() && !self.closes.get() {
            return Poll::Pending;
        }
        let (now, later) = self.sent.split_at(self.sent.len().min(buf.remaining()));
        buf.put_slice(now);
        self.sent = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.told.lock().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Lets a client send these bytes, and close when it has been told what there is to say. Gives the heads of the
/// requests that were read, and all that it was told; every request is answered at once, with nothing.
///
/// # Panics
///
/// The connection waits for something although the client has closed.
pub fn connection(sent: &[u8]) -> (Vec<Parts>, Vec<u8>) {
    let (heads, told) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let stack = service_fn(|request: Request<RequestBody>| {
        heads.lock().push(request.into_parts().0);
        std::future::ready(Ok::<_, Infallible>(Response::default()))
    });
    let progress = Arc::new(Progress::new(Arc::new(AtomicBool::new(false)), Duration::MAX));
    {
        let closes = Cell::new(false);
        let wire = Wire { sent, closes: &closes, told: &told };
        let mut connection = pin!(driver(wire, stack, &progress, BodyLimits::default()));
        let mut nobody = Context::from_waker(Waker::noop());
        let ended = connection.as_mut().poll(&mut nobody).is_ready();
        closes.set(true);
        assert!(ended || connection.poll(&mut nobody).is_ready(), "nobody closes it");
    }
    (heads.into_inner(), told.into_inner())
}
