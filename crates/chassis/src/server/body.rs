//! Bodies on their way: a request's with bounds on size and slowness, an answer's whose end is
//! noticed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::phase::{Phase, Progress};

/// Bounds on a request's body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Most bytes.
    pub max_bytes: u64,
    /// We wait for it for so long, however slow it is.
    pub grace: Duration,
    /// After that it must have come at this mean rate. Only the time that we wait for it counts, not
    /// the time that it waits for us.
    pub min_bytes_per_second: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { max_bytes: 2 * 1024 * 1024, grace: Duration::from_secs(8), min_bytes_per_second: 1024 }
    }
}

/// A request's body broke a bound, or its connection broke.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than allowed.
    #[error("body is larger than {0} bytes")]
    TooLarge(u64),
    /// It came too slowly.
    #[error("body came slower than {0} bytes per second")]
    TooSlow(u64),
    /// The connection broke.
    #[error("body is incomplete")]
    Broken(#[source] hyper::Error),
}

/// A request's body, within its bounds. The default is an empty one, and costs nothing.
#[derive(Default)]
pub struct RequestBody {
    inner: Option<Pin<Box<Bounded>>>,
}

pin_project! {
    struct Bounded {
        #[pin]
        incoming: Incoming,
        limits: BodyLimits,
        received: u64,
        waited: Duration,
        // While the body makes us wait: since when, and until when it may.
        wait: Option<(Instant, Pin<Box<Sleep>>)>,
    }
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, limits: BodyLimits) -> Self {
        if incoming.is_end_stream() {
            return Self::default();
        }
        let bounded = Bounded { incoming, limits, received: 0, waited: Duration::ZERO, wait: None };
        Self { inner: Some(Box::pin(bounded)) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(bounded) = &mut self.get_mut().inner else { return Poll::Ready(None) };
        let this = bounded.as_mut().project();
        match this.incoming.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some((since, _)) = this.wait.take() {
                    *this.waited += since.elapsed();
                }
                *this.received += frame.data_ref().map_or(0, |data| data.len() as u64);
                if *this.received > this.limits.max_bytes {
                    return Poll::Ready(Some(Err(BodyError::TooLarge(this.limits.max_bytes))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Broken(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let rate = this.limits.min_bytes_per_second;
                let due = this.limits.grace + Duration::from_millis(*this.received * 1000 / rate.max(1));
                let (_, timer) = this.wait.get_or_insert_with(|| {
                    (Instant::now(), Box::pin(tokio::time::sleep(due.saturating_sub(*this.waited))))
                });
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(BodyError::TooSlow(rate))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|bounded| bounded.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |bounded| bounded.incoming.size_hint())
    }
}

pin_project! {
    /// An answer's body, whose end the connection is told.
    pub(crate) struct AnswerBody<B> {
        #[pin]
        inner: B,
        end: End,
    }
}

struct End(Arc<Progress>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.enter(Phase::Flushing);
    }
}

impl<B> AnswerBody<B> {
    pub(crate) fn new(inner: B, progress: Arc<Progress>) -> Self {
        Self { inner, end: End(progress) }
    }
}

impl<B: Body> Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
