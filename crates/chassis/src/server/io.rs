//! A socket that records the progress of its connection.
//!
//! Also replaces the bare responses that hyper writes to requests that it cannot parse (400, 414, 431) with
//! responses that have the envelope of all errors. They are the only ones that are written while no request is
//! handled.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::progress::{Phase, Progress};
use crate::request::unparsed_request_response;

pin_project! {
    /// A socket that records the progress of its connection.
    pub(crate) struct WatchedIo<T> {
        #[pin]
        inner: T,
        progress: Arc<Progress>,
        // Unwritten part of the response to a request that could not be parsed.
        replacement: Bytes,
    }
}

impl<T> WatchedIo<T> {
    pub(crate) fn new(inner: T, progress: Arc<Progress>) -> Self {
        Self { inner, progress, replacement: Bytes::new() }
    }
}

impl<T: AsyncRead> AsyncRead for WatchedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.inner.poll_read(cx, buf))?;
        if buf.filled().len() > before && this.progress.phase() == Phase::Idle {
            this.progress.enter(Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite> WatchedIo<T> {
    /// Writes the rest of the replacement.
    fn poll_replacement(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        while this.replacement.has_remaining() {
            let written = ready!(this.inner.as_mut().poll_write(cx, this.replacement))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.replacement.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Records whether a write had to wait.
    fn record(self: Pin<&mut Self>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.project().progress.set_client_reads(result.is_ready());
        result
    }

    /// Prepares the replacement and returns true if `bytes` begin a response to a request that could not be
    /// parsed.
    fn replace(self: Pin<&mut Self>, bytes: &[u8]) -> bool {
        let this = self.project();
        if matches!(this.progress.phase(), Phase::Busy | Phase::Flushing) {
            return false;
        }
        let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        match status.and_then(unparsed_request_response) {
            Some(response) => {
                *this.replacement = response;
                true
            }
            None => false,
        }
    }
}

impl<T: AsyncWrite> AsyncWrite for WatchedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.as_mut().replace(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.as_mut().poll_replacement(cx))?;
        let result = self.as_mut().project().inner.poll_write(cx, bytes);
        self.record(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.first().is_some_and(|first| self.as_mut().replace(first)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        ready!(self.as_mut().poll_replacement(cx))?;
        let result = self.as_mut().project().inner.poll_write_vectored(cx, bufs);
        self.record(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_replacement(cx))?;
        let this = self.project();
        ready!(this.inner.poll_flush(cx))?;
        if this.progress.phase() == Phase::Flushing {
            this.progress.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_replacement(cx))?;
        self.project().inner.poll_shutdown(cx)
    }
}
