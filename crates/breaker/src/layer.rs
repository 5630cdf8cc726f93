//! Middleware that puts a circuit breaker in front of a client service.
//!
//! Rejects in `call` and not in `poll_ready`: readiness is that of the inner service. The caller supplies
//! the classification of results as outcomes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Breaker, Outcome, Permit, Rejection};

/// Layer that wraps client services in [`CircuitBreaker`]. `classify` maps each result of a call to its
/// [`Outcome`].
#[derive(Clone)]
pub struct CircuitBreakerLayer<C> {
    breaker: Breaker,
    classify: C,
}

impl<C> CircuitBreakerLayer<C> {
    /// Creates a layer over one breaker, shared by all services that it wraps.
    pub fn new(breaker: Breaker, classify: C) -> Self {
        Self { breaker, classify }
    }
}

impl<S, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker { inner, breaker: self.breaker.clone(), classify: self.classify.clone() }
    }
}

/// A client service behind a circuit breaker.
#[derive(Clone)]
pub struct CircuitBreaker<S, C> {
    inner: S,
    breaker: Breaker,
    classify: C,
}

/// Error of a call through a [`CircuitBreaker`].
#[derive(Debug, thiserror::Error)]
pub enum CallError<E> {
    /// The breaker rejected the call; the inner service was not called.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The inner service failed.
    #[error("call failed")]
    Failed(#[source] E),
}

impl<S, C, Request> Service<Request> for CircuitBreaker<S, C>
where
    S: Service<Request>,
    C: Fn(Result<&S::Response, &S::Error>) -> Outcome + Clone,
{
    type Response = S::Response;
    type Error = CallError<S::Error>;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(CallError::Failed)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.breaker.admit() {
            Err(rejection) => ResponseFuture { state: FutureState::Rejected { rejection: Some(rejection) } },
            Ok(permit) => ResponseFuture {
                state: FutureState::Calling {
                    future: self.inner.call(request),
                    permit: Some(permit),
                    classify: self.classify.clone(),
                },
            },
        }
    }
}

pin_project! {
    /// Response future of [`CircuitBreaker`].
    pub struct ResponseFuture<F, C> {
        #[pin]
        state: FutureState<F, C>,
    }
}

pin_project! {
    #[project = FutureStateProjection]
    enum FutureState<F, C> {
        Rejected { rejection: Option<Rejection> },
        Calling { #[pin] future: F, permit: Option<Permit>, classify: C },
    }
}

impl<F, C, T, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    C: Fn(Result<&T, &E>) -> Outcome,
{
    type Output = Result<T, CallError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            FutureStateProjection::Rejected { rejection } => {
                let rejection = rejection.take().expect("a future is not polled after completion");
                Poll::Ready(Err(rejection.into()))
            }
            FutureStateProjection::Calling { future, permit, classify } => {
                let result = ready!(future.poll(cx));
                if let Some(permit) = permit.take() {
                    permit.record(classify(result.as_ref()));
                }
                Poll::Ready(result.map_err(CallError::Failed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phase6_live::Live;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::Settings;

    fn classify(result: Result<&(), &&str>) -> Outcome {
        if result.is_ok() { Outcome::Success } else { Outcome::Failure }
    }

    #[tokio::test]
    async fn stops_calling_a_failing_service() {
        let breaker = Breaker::new(
            "peer",
            Live::new(Settings {
                failure_ratio: 0.5,
                minimum_calls: 2,
                window: Duration::from_secs(10),
                open_for: Duration::from_mins(1),
                half_open_probes: 1,
            }),
        );
        let service = CircuitBreakerLayer::new(breaker.clone(), classify)
            .layer(service_fn(|()| async { Err::<(), _>("down") }));
        for _ in 0..2 {
            let error = service.clone().oneshot(()).await.unwrap_err();
            assert!(matches!(error, CallError::Failed("down")));
        }
        let error = service.oneshot(()).await.unwrap_err();
        assert!(matches!(error, CallError::Rejected(Rejection::Open { .. })));
        assert_eq!(breaker.snapshot().call_count, 2);
    }
}
