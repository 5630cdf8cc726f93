//! How long a caller still waits, told from service to service: who works for somebody that has gone does
//! it for nobody.
//!
//! A call says how many milliseconds are left, as gRPC's `grpc-timeout` does and Envoy's
//! `x-envoy-expected-rq-timeout-ms`: a moment would need clocks that agree. Only our own services are
//! believed, by their token; a client could else have others' work cut short. The answer must begin within
//! the lesser of that and the service's own limit, and calls that are made for it inherit what is left.
//!
//! What is done in a task of its own, because others may wait for it too, inherits nothing: one caller in a
//! hurry spoils no answer for the rest.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, Request, StatusCode};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Layer, Service};

use crate::{ApiError, RequestContext};

/// Milliseconds that the caller still waits.
pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("phase6-deadline-ms");

tokio::task_local! {
    /// When the caller of the request that this task answers no longer waits.
    static DUE: Instant;
}

/// For how long the caller of the request that the running task answers still waits, if it said so.
pub fn left() -> Option<Duration> {
    DUE.try_with(|due| due.saturating_duration_since(Instant::now())).ok()
}

/// When the caller no longer waits, by what it says.
fn told(headers: &HeaderMap) -> Option<Instant> {
    let milliseconds: u64 = headers.get(DEADLINE)?.to_str().ok()?.parse().ok()?;
    Instant::now().checked_add(Duration::from_millis(milliseconds))
}

#[derive(Clone, Copy)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner }
    }
}

#[derive(Clone)]
pub(crate) struct Bounded<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Bounded<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoundedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = request.extensions().get::<RequestContext>();
        let is_ours = context.is_some_and(|context| context.caller.internal);
        let due = if is_ours { told(request.headers()) } else { None };
        BoundedFuture { future: self.inner.call(request), due, timer: None }
    }
}

pin_project! {
    pub(crate) struct BoundedFuture<F> {
        #[pin]
        future: F,
        due: Option<Instant>,
        // Only made when the answer makes us wait.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for BoundedFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(due) = *this.due else { return this.future.poll(cx) };
        if let Poll::Ready(answer) = DUE.sync_scope(due, || this.future.poll(cx)) {
            return Poll::Ready(answer);
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
        ready!(timer.as_mut().poll(cx));
        let message = "the service did not begin to answer for as long as its caller waits";
        Poll::Ready(Ok(
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message).into_response()
        ))
    }
}
