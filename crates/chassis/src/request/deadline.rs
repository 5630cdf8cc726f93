//! Deadlines that callers pass on: no service works for a caller that no longer waits.
//!
//! A call between services carries the number of milliseconds for which its caller still waits, as
//! `grpc-timeout` and Envoy's `x-envoy-expected-rq-timeout-ms` do; a point in time would need synchronized
//! clocks. Only our own services are trusted, by their token: otherwise a client could cut short work that
//! others wait for. The response must begin within the deadline or the service's own limit, whichever is
//! shorter, and the calls made for it inherit the remaining time.
//!
//! Work in a spawned task inherits nothing, because several callers may wait for it: a caller with a short
//! deadline must not fail the others.

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

/// Carries the number of milliseconds for which the caller still waits.
pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("phase6-deadline-ms");

tokio::task_local! {
    /// Deadline of the request that this task handles.
    static CURRENT: Instant;
}

/// Returns the time for which the caller of the current request still waits, if it has a deadline.
pub fn remaining() -> Option<Duration> {
    CURRENT.try_with(|deadline| deadline.saturating_duration_since(Instant::now())).ok()
}

/// Reads the deadline from the headers of a request.
fn read(headers: &HeaderMap) -> Option<Instant> {
    let milliseconds: u64 = headers.get(DEADLINE)?.to_str().ok()?.parse().ok()?;
    Instant::now().checked_add(Duration::from_millis(milliseconds))
}

/// Enforces the deadlines of callers.
#[derive(Clone, Copy)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// A service that responds within the deadline of its caller.
#[derive(Clone)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = request.extensions().get::<RequestContext>();
        let is_internal = context.is_some_and(|context| context.caller.internal);
        let deadline = if is_internal { read(request.headers()) } else { None };
        DeadlineFuture { future: self.inner.call(request), deadline, timer: None }
    }
}

pin_project! {
    pub(crate) struct DeadlineFuture<F> {
        #[pin]
        future: F,
        deadline: Option<Instant>,
        // Created when the response is not ready at once.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for DeadlineFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(deadline) = *this.deadline else { return this.future.poll(cx) };
        if let Poll::Ready(response) = CURRENT.sync_scope(deadline, || this.future.poll(cx)) {
            return Poll::Ready(response);
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        ready!(timer.as_mut().poll(cx));
        let message = "the response did not begin within the caller's deadline";
        Poll::Ready(Ok(
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message).into_response()
        ))
    }
}
