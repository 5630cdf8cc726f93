//! The middleware that enforces rate limits in front of a service.
//!
//! Reads the limits and the client of a request from its extensions, through two functions passed at
//! construction. Refuses in `call` and never waits in `poll_ready`. Does not know who provides the extensions
//! or which service it wraps.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use foldhash::quality::RandomState;
use http::{Extensions, Request, Response, StatusCode};
use phase6_policy::Mode;
use phase6_redis::WaitBudget;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Backend, BackendDecision, Decision, Limits, Owner, Rule, headers};

/// Functions that read the limiter's inputs from the extensions of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestAccessors {
    /// Returns the limits in force; `None` if the request is not limited.
    pub limits: fn(&Extensions) -> Option<&Limits>,
    /// Returns the client of the request.
    pub client: fn(&Extensions) -> Client<'_>,
}

/// The client of a request.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Authenticated client; `None` for one without credentials.
    pub owner: Option<Owner<'a>>,
    /// Network address.
    pub address: IpAddr,
}

/// A refused request, passed to the function that builds the response.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Whole seconds to wait, rounded up; `None` if no wait helps.
    pub retry_after_seconds: Option<u64>,
}

/// Number of limited requests by decision, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecisionCounts {
    /// Requests admitted within their limit.
    pub admitted: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests admitted over their limit in shadow mode.
    pub shadow_refused: u64,
}

/// A [`Layer`] that wraps services in [`RateLimit`]. All of them use the same backend.
#[derive(Debug)]
pub struct RateLimitLayer<B, R> {
    state: Arc<LayerState<B, R>>,
}

/// State of a layer and all of its services.
#[derive(Debug)]
struct LayerState<B, R> {
    backend: B,
    accessors: RequestAccessors,
    refuse: R,
    hasher: RandomState,
    admitted: AtomicU64,
    refused: AtomicU64,
    shadow_refused: AtomicU64,
}

impl<B, R> Clone for RateLimitLayer<B, R> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

impl<B: Backend, R> RateLimitLayer<B, R> {
    /// Creates a layer that decides by `backend`. `refuse` builds the response to a refused request.
    pub fn new(backend: B, accessors: RequestAccessors, refuse: R) -> Self {
        Self {
            state: Arc::new(LayerState {
                backend,
                accessors,
                refuse,
                hasher: RandomState::default(),
                admitted: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                shadow_refused: AtomicU64::new(0),
            }),
        }
    }

    /// Returns the number of decisions since the start.
    pub fn counts(&self) -> DecisionCounts {
        DecisionCounts {
            admitted: self.state.admitted.load(Ordering::Relaxed),
            refused: self.state.refused.load(Ordering::Relaxed),
            shadow_refused: self.state.shadow_refused.load(Ordering::Relaxed),
        }
    }
}

impl<S, B, R> Layer<S> for RateLimitLayer<B, R> {
    type Service = RateLimit<S, B, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { inner, state: Arc::clone(&self.state) }
    }
}

/// A [`Service`] behind a rate limit.
#[derive(Debug)]
pub struct RateLimit<S, B, R> {
    inner: S,
    state: Arc<LayerState<B, R>>,
}

impl<S: Clone, B, R> Clone for RateLimit<S, B, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), state: Arc::clone(&self.state) }
    }
}

impl<S, B, R, ReqBody, ResBody> Service<Request<ReqBody>> for RateLimit<S, B, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
    B: Backend,
    R: Fn(Refusal) -> Response<ResBody> + Send + Sync + 'static,
    ReqBody: Send + 'static,
    ResBody: Send + 'static,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = RateLimitFuture<S::Future, ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let state = &self.state;
        let Some(limits) = (state.accessors.limits)(request.extensions()) else {
            return RateLimitFuture::passing(self.inner.call(request), None);
        };
        if limits.mode() == Mode::Off {
            return RateLimitFuture::passing(self.inner.call(request), None);
        }
        let rule = limits.rule(request.method().as_str(), request.uri().path());
        let Client { owner, address } = (state.accessors.client)(request.extensions());
        let bucket = limits.bucket(rule, owner, address, |name| request.headers().get(name), &state.hasher);
        let mode = limits.mode();
        match state.backend.decide(&bucket, &rule.config) {
            BackendDecision::Ready(decision) => {
                let rule = Arc::clone(rule);
                match state.enforce(mode, &rule, decision) {
                    Some(response) => RateLimitFuture::refused(response),
                    None => RateLimitFuture::passing(self.inner.call(request), Some((rule, decision))),
                }
            }
            BackendDecision::Pending(pending) => {
                let rule = Arc::clone(rule);
                let state = Arc::clone(state);
                let mut inner = self.inner.clone();
                let mut request = request;
                RateLimitFuture::waiting(Box::pin(async move {
                    let started = tokio::time::Instant::now();
                    let decision = pending.await;
                    // Inner layers may wait for Redis only for the rest of the time limit.
                    request.extensions_mut().insert(WaitBudget::default().after(started.elapsed()));
                    match state.enforce(mode, &rule, decision) {
                        Some(response) => Ok(response),
                        None => inner.call(request).await.map(|mut response| {
                            write_headers(&rule, &decision, &mut response);
                            response
                        }),
                    }
                }))
            }
        }
    }
}

/// Writes the headers of an admitted request's response. Leaves a 429 of an inner service unchanged: its
/// headers describe the limit that refused it.
fn write_headers<ResBody>(rule: &Rule, decision: &Decision, response: &mut Response<ResBody>) {
    if response.status() != StatusCode::TOO_MANY_REQUESTS {
        headers::write(rule, decision, response.headers_mut());
    }
}

impl<B, R> LayerState<B, R> {
    /// Counts a decision and returns the response if the request is refused.
    fn enforce<ResBody>(&self, mode: Mode, rule: &Rule, decision: Decision) -> Option<Response<ResBody>>
    where
        R: Fn(Refusal) -> Response<ResBody>,
    {
        let Decision::Refuse { retry_after } = decision else {
            self.admitted.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if mode == Mode::Shadow {
            self.shadow_refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let retry_after_seconds = retry_after.map(|wait| headers::seconds(wait).max(1));
        let mut response = (self.refuse)(Refusal { retry_after_seconds });
        headers::write(rule, &decision, response.headers_mut());
        Some(response)
    }
}

pin_project! {
    /// Future of the response of a service behind a rate limit, or of a refusal.
    pub struct RateLimitFuture<F, ResBody, E> {
        #[pin]
        state: State<F, ResBody, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, ResBody, E> {
        Refused { response: Option<Response<ResBody>> },
        Passing { #[pin] future: F, decided: Option<(Arc<Rule>, Decision)> },
        Waiting { future: Pin<Box<dyn Future<Output = Result<Response<ResBody>, E>> + Send>> },
    }
}

impl<F, ResBody, E> RateLimitFuture<F, ResBody, E> {
    fn refused(response: Response<ResBody>) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }

    fn passing(future: F, decided: Option<(Arc<Rule>, Decision)>) -> Self {
        Self { state: State::Passing { future, decided } }
    }

    fn waiting(future: Pin<Box<dyn Future<Output = Result<Response<ResBody>, E>> + Send>>) -> Self {
        Self { state: State::Waiting { future } }
    }
}

impl<F, ResBody, E> Future for RateLimitFuture<F, ResBody, E>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { response } => {
                Poll::Ready(Ok(response.take().expect("a future is not polled after completion")))
            }
            StateProjection::Passing { future, decided } => {
                let mut response = ready!(future.poll(cx))?;
                if let Some((rule, decision)) = decided {
                    write_headers(rule, decision, &mut response);
                }
                Poll::Ready(Ok(response))
            }
            StateProjection::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests;
