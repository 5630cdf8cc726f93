//! Response future of the middleware.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::future::BoxFuture;
use http::Response;
use pin_project_lite::pin_project;

use crate::{Cache, Invalidation, downstream};

/// Invalidates the target of an unsafe request (RFC 9111, section 4.4) when the request ends, unless it
/// failed. Acting on drop covers a client that disconnects: the handler may have done its work by then.
pub(super) struct InvalidateOnDrop {
    cache: Cache,
    path: Option<String>,
}

impl InvalidateOnDrop {
    pub(super) fn new(cache: Cache, path: Option<String>) -> Self {
        Self { cache, path }
    }

    fn disarm(&mut self) {
        self.path = None;
    }
}

impl Drop for InvalidateOnDrop {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            self.cache.invalidate(Invalidation::Path(path));
        }
    }
}

pin_project! {
    /// Response of a service behind a cache.
    pub struct ResponseFuture<F, ResBody> {
        #[pin]
        state: State<F, ResBody>,
        // True if the handler's response must be `private` to downstream caches.
        private: bool,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, ResBody> {
        Ready { response: Option<Response<ResBody>> },
        PassThrough { #[pin] future: F, invalidate: Option<InvalidateOnDrop> },
        Fetch { future: BoxFuture<'static, Result<Response<ResBody>, Infallible>> },
    }
}

impl<F, ResBody> ResponseFuture<F, ResBody> {
    pub(super) fn ready(response: Response<ResBody>) -> Self {
        Self { state: State::Ready { response: Some(response) }, private: false }
    }

    pub(super) fn pass_through(future: F, invalidate: Option<InvalidateOnDrop>) -> Self {
        Self { state: State::PassThrough { future, invalidate }, private: false }
    }

    pub(super) fn fetch(future: BoxFuture<'static, Result<Response<ResBody>, Infallible>>) -> Self {
        Self { state: State::Fetch { future }, private: false }
    }

    pub(super) fn private(self, private: bool) -> Self {
        Self { private, ..self }
    }
}

impl<F, ResBody> Future for ResponseFuture<F, ResBody>
where
    F: Future<Output = Result<Response<ResBody>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.state.project() {
            StateProjection::Ready { response } => {
                response.take().expect("a future is not polled after it has completed")
            }
            StateProjection::PassThrough { future, invalidate } => {
                let Ok(response) = ready!(future.poll(cx));
                if let Some(mut invalidate) = invalidate.take()
                    && !(response.status().is_success() || response.status().is_redirection())
                {
                    invalidate.disarm();
                }
                response
            }
            StateProjection::Fetch { future } => {
                let Ok(response) = ready!(future.as_mut().poll(cx));
                response
            }
        };
        if *this.private {
            downstream::make_private(response.headers_mut());
        }
        Poll::Ready(Ok(response))
    }
}
