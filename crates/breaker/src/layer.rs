//! A breaker in front of a client service.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Breaker, Outcome, Permit, Refused};

/// Makes [`Guarded`] services; `judge` says of each result how the call ended.
#[derive(Clone)]
pub struct BreakerLayer<J> {
    breaker: Breaker,
    judge: J,
}

impl<J> BreakerLayer<J> {
    /// A layer over one breaker.
    pub fn new(breaker: Breaker, judge: J) -> Self {
        Self { breaker, judge }
    }
}

impl<S, J: Clone> Layer<S> for BreakerLayer<J> {
    type Service = Guarded<S, J>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, breaker: self.breaker.clone(), judge: self.judge.clone() }
    }
}

/// A client service behind a breaker. Refuses in `call`.
#[derive(Clone)]
pub struct Guarded<S, J> {
    inner: S,
    breaker: Breaker,
    judge: J,
}

/// Why a guarded call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Call<E> {
    /// The breaker refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It was tried and failed.
    #[error("call failed")]
    Failed(#[source] E),
}

impl<S, J, Request> Service<Request> for Guarded<S, J>
where
    S: Service<Request>,
    J: Fn(Result<&S::Response, &S::Error>) -> Outcome + Clone,
{
    type Response = S::Response;
    type Error = Call<S::Error>;
    type Future = GuardedFuture<S::Future, J>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Call::Failed)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.breaker.admit() {
            Err(refused) => GuardedFuture { state: State::Refused { refused: Some(refused) } },
            Ok(permit) => GuardedFuture {
                state: State::Calling {
                    future: self.inner.call(request),
                    permit: Some(permit),
                    judge: self.judge.clone(),
                },
            },
        }
    }
}

pin_project! {
    /// The answer behind a breaker, or the refusal.
    pub struct GuardedFuture<F, J> {
        #[pin]
        state: State<F, J>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, J> {
        Refused { refused: Option<Refused> },
        Calling { #[pin] future: F, permit: Option<Permit>, judge: J },
    }
}

impl<F, J, T, E> Future for GuardedFuture<F, J>
where
    F: Future<Output = Result<T, E>>,
    J: Fn(Result<&T, &E>) -> Outcome,
{
    type Output = Result<T, Call<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { refused } => {
                let refused = refused.take().expect("a future is not polled after it is done");
                Poll::Ready(Err(refused.into()))
            }
            StateProjection::Calling { future, permit, judge } => {
                let result = ready!(future.poll(cx));
                if let Some(permit) = permit.take() {
                    permit.end(judge(result.as_ref()));
                }
                Poll::Ready(result.map_err(Call::Failed))
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

    fn by_result(result: Result<&(), &&str>) -> Outcome {
        if result.is_ok() { Outcome::Success } else { Outcome::Failure }
    }

    #[tokio::test]
    async fn a_failing_service_is_not_called_any_more() {
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
        let service = BreakerLayer::new(breaker.clone(), by_result)
            .layer(service_fn(|()| async { Err::<(), _>("down") }));
        for _ in 0..2 {
            let error = service.clone().oneshot(()).await.unwrap_err();
            assert!(matches!(error, Call::Failed("down")));
        }
        let error = service.oneshot(()).await.unwrap_err();
        assert!(matches!(error, Call::Refused(Refused::Open { .. })));
        assert_eq!(breaker.snapshot().call_count, 2);
    }
}
