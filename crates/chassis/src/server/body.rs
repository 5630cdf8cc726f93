//! Bodies on their way: request bodies with limits of size and rate, response bodies whose end is recorded.

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

use super::{
    BodyLimits,
    progress::{Phase, Progress},
};

/// Failure to read the body of a request.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body exceeds this number of bytes.
    #[error("body is larger than {0} bytes")]
    TooLarge(u64),
    /// The body arrived at a lower rate than this number of bytes per second.
    #[error("body arrived slower than {0} bytes per second")]
    TooSlow(u64),
    /// The connection broke.
    #[error("body is incomplete")]
    Broken(#[source] hyper::Error),
}

/// Body of a request, within its limits. The default is an empty body, which needs no allocation.
#[derive(Default)]
pub struct RequestBody {
    inner: Option<Pin<Box<LimitedBody>>>,
}

pin_project! {
    struct LimitedBody {
        #[pin]
        incoming: Incoming,
        limits: BodyLimits,
        // Bytes so far.
        received: u64,
        // Time spent in earlier waits.
        waited: Duration,
        // Present while the body is not ready.
        wait: Option<Wait>,
    }
}

/// A wait for the next frame of a body.
struct Wait {
    since: Instant,
    /// Completes when the body has become too slow.
    limit: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, limits: BodyLimits) -> Self {
        if incoming.is_end_stream() {
            return Self::default();
        }
        let limited = LimitedBody { incoming, limits, received: 0, waited: Duration::ZERO, wait: None };
        Self { inner: Some(Box::pin(limited)) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(limited) = &mut self.get_mut().inner else { return Poll::Ready(None) };
        let this = limited.as_mut().project();
        match this.incoming.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(wait) = this.wait.take() {
                    *this.waited += wait.since.elapsed();
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
                let allowed = this.limits.grace + Duration::from_millis(*this.received * 1000 / rate.max(1));
                let wait = this.wait.get_or_insert_with(|| Wait {
                    since: Instant::now(),
                    limit: Box::pin(tokio::time::sleep(allowed.saturating_sub(*this.waited))),
                });
                ready!(wait.limit.as_mut().poll(cx));
                Poll::Ready(Some(Err(BodyError::TooSlow(rate))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|limited| limited.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |limited| limited.incoming.size_hint())
    }
}

pin_project! {
    /// Body of a response. Records its end in the progress of the connection.
    pub(crate) struct ResponseBody<B> {
        #[pin]
        inner: B,
        end: FlushOnDrop,
    }
}

struct FlushOnDrop(Arc<Progress>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.enter(Phase::Flushing);
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn new(inner: B, progress: Arc<Progress>) -> Self {
        Self { inner, end: FlushOnDrop(progress) }
    }
}

impl<B: Body> Body for ResponseBody<B> {
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
