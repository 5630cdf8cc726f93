//! A socket that tells what its connection is doing.
//!
//! It also gives the answers that hyper writes to a request it cannot parse (400, 414, 431) the
//! body that every other error has: such an answer is recognised by being written while no request
//! is being answered.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::phase::{Phase, Progress};
use crate::envelope::unparsed_request_answer;

pin_project! {
    pub(crate) struct WatchedIo<T> {
        #[pin]
        inner: T,
        progress: Arc<Progress>,
        // Our answer to a request that could not be parsed, as far as it is not written.
        own_answer: Bytes,
    }
}

impl<T> WatchedIo<T> {
    pub(crate) fn new(inner: T, progress: Arc<Progress>) -> Self {
        Self { inner, progress, own_answer: Bytes::new() }
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
    /// Writes what is left of our own answer.
    fn poll_own_answer(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        while this.own_answer.has_remaining() {
            let written = ready!(this.inner.as_mut().poll_write(cx, this.own_answer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.own_answer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn noted(self: Pin<&mut Self>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.project().progress.peer_reads(result.is_ready());
        result
    }

    /// Whether `bytes` are the head of an answer to a request that could not be parsed; then our
    /// own answer takes its place.
    fn replaces(self: Pin<&mut Self>, bytes: &[u8]) -> bool {
        let this = self.project();
        if matches!(this.progress.phase(), Phase::Busy | Phase::Flushing) {
            return false;
        }
        let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        match status.and_then(unparsed_request_answer) {
            Some(answer) => {
                *this.own_answer = answer;
                true
            }
            None => false,
        }
    }
}

impl<T: AsyncWrite> AsyncWrite for WatchedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.as_mut().replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.as_mut().poll_own_answer(cx))?;
        let result = self.as_mut().project().inner.poll_write(cx, bytes);
        self.noted(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.first().is_some_and(|first| self.as_mut().replaces(first)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        ready!(self.as_mut().poll_own_answer(cx))?;
        let result = self.as_mut().project().inner.poll_write_vectored(cx, bufs);
        self.noted(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_own_answer(cx))?;
        let this = self.project();
        ready!(this.inner.poll_flush(cx))?;
        if this.progress.phase() == Phase::Flushing {
            this.progress.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_own_answer(cx))?;
        self.project().inner.poll_shutdown(cx)
    }
}
