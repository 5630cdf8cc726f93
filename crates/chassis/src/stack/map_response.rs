//! Future of a layer that changes a response by data of its request.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::response::Response;
use pin_project_lite::pin_project;

/// Changes a response by data of its request, which it holds.
pub(crate) trait ResponseMap {
    /// The changed response.
    type Response;

    /// Changes the response. Called once; if the request is cancelled, the value is dropped instead.
    fn map(self, response: Response) -> Self::Response;
}

pin_project! {
    /// Future of a response that is changed by `M`.
    pub(crate) struct MapResponse<F, M> {
        #[pin]
        future: F,
        // `None` once the future has completed.
        map: Option<M>,
    }
}

impl<F, M> MapResponse<F, M> {
    pub(crate) fn new(future: F, map: M) -> Self {
        Self { future, map: Some(map) }
    }
}

impl<F, M> Future for MapResponse<F, M>
where
    F: Future<Output = Result<Response, Infallible>>,
    M: ResponseMap,
{
    type Output = Result<M::Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.future.poll(cx));
        let map = this.map.take().expect("a future is not polled after it has completed");
        Poll::Ready(Ok(map.map(response)))
    }
}
