//! The decision in front of a service.
//!
//! What to enforce and who is asking are read from the request's extensions by the two functions
//! that the layer is made with; the layer knows neither where they come from nor what serves the
//! request. Refuses in `call`.

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

use crate::{Backend, Decision, Limits, Rule, Verdict, headers};

/// What the layer asks of each request.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The limits in force for it; none: it is not limited.
    pub limits: fn(&Extensions) -> Option<&Limits>,
    /// The authenticated caller, if there is one, and the client address.
    pub client: fn(&Extensions) -> (Option<&str>, IpAddr),
}

/// A refused request, as the service's maker is told of it to write the answer.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Whole seconds to wait, rounded up; none: waiting does not help.
    pub retry_after_seconds: Option<u64>,
}

/// Makes [`RateLimit`] services over one backend.
#[derive(Debug)]
pub struct RateLimitLayer<B, R> {
    shared: Arc<Shared<B, R>>,
}

#[derive(Debug)]
struct Shared<B, R> {
    backend: B,
    ask: Ask,
    refuse: R,
    hasher: RandomState,
    admitted: AtomicU64,
    refused: AtomicU64,
    shadow_refused: AtomicU64,
}

impl<B, R> Clone for RateLimitLayer<B, R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backend, R> RateLimitLayer<B, R> {
    /// A layer that decides by `backend` and answers a refused request with `refuse`.
    pub fn new(backend: B, ask: Ask, refuse: R) -> Self {
        Self {
            shared: Arc::new(Shared {
                backend,
                ask,
                refuse,
                hasher: RandomState::default(),
                admitted: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                shadow_refused: AtomicU64::new(0),
            }),
        }
    }

    /// Requests admitted, refused, and let through although over a limit in shadow mode.
    pub fn counts(&self) -> [u64; 3] {
        let Shared { admitted, refused, shadow_refused, .. } = &*self.shared;
        [admitted, refused, shadow_refused].map(|count| count.load(Ordering::Relaxed))
    }
}

impl<S, B, R> Layer<S> for RateLimitLayer<B, R> {
    type Service = RateLimit<S, B, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service behind a rate limit.
#[derive(Debug)]
pub struct RateLimit<S, B, R> {
    inner: S,
    shared: Arc<Shared<B, R>>,
}

impl<S: Clone, B, R> Clone for RateLimit<S, B, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
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
        let shared = &self.shared;
        let Some(limits) = (shared.ask.limits)(request.extensions()) else {
            return RateLimitFuture::passing(self.inner.call(request), None);
        };
        if limits.mode() == Mode::Off {
            return RateLimitFuture::passing(self.inner.call(request), None);
        }
        let rule = limits.rule(request.method().as_str(), request.uri().path());
        let (owner, address) = (shared.ask.client)(request.extensions());
        let bucket = limits.bucket(rule, owner, address, |name| request.headers().get(name), &shared.hasher);
        let mode = limits.mode();
        match shared.backend.decide(&bucket, &rule.terms) {
            Verdict::Now(decision) => {
                let rule = Arc::clone(rule);
                match shared.act(mode, &rule, decision) {
                    Some(answer) => RateLimitFuture::refused(answer),
                    None => RateLimitFuture::passing(self.inner.call(request), Some((rule, decision))),
                }
            }
            Verdict::Later(deciding) => {
                let rule = Arc::clone(rule);
                let shared = Arc::clone(shared);
                let mut inner = self.inner.clone();
                let mut request = request;
                RateLimitFuture::waiting(Box::pin(async move {
                    let begun = tokio::time::Instant::now();
                    let decision = deciding.await;
                    // Further in it waits for less.
                    request.extensions_mut().insert(WaitBudget::default().after(begun.elapsed()));
                    match shared.act(mode, &rule, decision) {
                        Some(answer) => Ok(answer),
                        None => inner.call(request).await.map(|mut answer| {
                            tell(&rule, &decision, &mut answer);
                            answer
                        }),
                    }
                }))
            }
        }
    }
}

/// Says in an answer what is left. An answer that was refused further in speaks of the limit that
/// refused it, and is left alone.
fn tell<ResBody>(rule: &Rule, decision: &Decision, answer: &mut Response<ResBody>) {
    if answer.status() != StatusCode::TOO_MANY_REQUESTS {
        headers::write(rule, decision, answer.headers_mut());
    }
}

impl<B, R> Shared<B, R> {
    /// Counts a decision; the answer if the request is refused.
    fn act<ResBody>(&self, mode: Mode, rule: &Rule, decision: Decision) -> Option<Response<ResBody>>
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
        let mut answer = (self.refuse)(Refusal { retry_after_seconds });
        headers::write(rule, &decision, answer.headers_mut());
        Some(answer)
    }
}

pin_project! {
    /// The answer of a service behind a rate limit, or the refusal.
    pub struct RateLimitFuture<F, ResBody, E> {
        #[pin]
        state: State<F, ResBody, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, ResBody, E> {
        Refused { answer: Option<Response<ResBody>> },
        Passing { #[pin] future: F, told: Option<(Arc<Rule>, Decision)> },
        Waiting { future: Pin<Box<dyn Future<Output = Result<Response<ResBody>, E>> + Send>> },
    }
}

impl<F, ResBody, E> RateLimitFuture<F, ResBody, E> {
    fn refused(answer: Response<ResBody>) -> Self {
        Self { state: State::Refused { answer: Some(answer) } }
    }

    fn passing(future: F, told: Option<(Arc<Rule>, Decision)>) -> Self {
        Self { state: State::Passing { future, told } }
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
            StateProjection::Refused { answer } => {
                Poll::Ready(Ok(answer.take().expect("a future is not polled after it is done")))
            }
            StateProjection::Passing { future, told } => {
                let mut answer = ready!(future.poll(cx))?;
                if let Some((rule, decision)) = told {
                    tell(rule, decision, &mut answer);
                }
                Poll::Ready(Ok(answer))
            }
            StateProjection::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::Ipv4Addr, time::Duration};

    use serde_json::json;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::Memory;

    const ASK: Ask = Ask {
        limits: |extensions| extensions.get::<Arc<Limits>>().map(AsRef::as_ref),
        client: |_| (None, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };

    /// A backend that has to ask elsewhere first.
    #[derive(Clone)]
    struct Elsewhere(Memory);

    impl Backend for Elsewhere {
        fn decide(&self, bucket: &crate::Bucketed<'_>, terms: &crate::Terms) -> Verdict {
            let Verdict::Now(decision) = self.0.decide(bucket, terms) else { unreachable!() };
            Verdict::Later(Box::pin(async move {
                tokio::task::yield_now().await;
                decision
            }))
        }
    }

    fn too_many(_: Refusal) -> Response<&'static str> {
        let mut answer = Response::new("too many");
        *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        answer
    }

    async fn ask<B: Backend>(
        backend: B,
        policy: serde_json::Value,
        requests: usize,
    ) -> Vec<Response<&'static str>> {
        let limits = Arc::new(Limits::new(&serde_json::from_value(policy).unwrap(), 1, false));
        let layer = RateLimitLayer::new(backend, ASK, too_many);
        let service =
            layer.layer(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new("hello")) }));
        let mut answers = Vec::new();
        for _ in 0..requests {
            let mut request = Request::new(());
            request.extensions_mut().insert(Arc::clone(&limits));
            answers.push(service.clone().oneshot(request).await.unwrap());
        }
        answers
    }

    fn header<'a>(answer: &'a Response<&str>, name: &str) -> &'a str {
        answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn an_admitted_answer_says_what_is_left() {
        let answers = ask(Memory::with_room_for(8), json!({"capacity": 2, "refillPerSecond": 1}), 1).await;
        assert_eq!(*answers[0].body(), "hello");
        assert_eq!(header(&answers[0], "ratelimit-policy"), "\"default\";q=2;w=2");
        assert_eq!(header(&answers[0], "ratelimit"), "\"default\";r=1;t=1");
        assert_eq!(header(&answers[0], "x-ratelimit-remaining"), "", "the older ones come with a refusal");
        assert_eq!(header(&answers[0], "retry-after"), "");
    }

    async fn refuses_the_third<B: Backend>(backend: B) {
        let answers = ask(backend, json!({"capacity": 2, "refillPerSecond": 0.1}), 3).await;
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status().as_u16()).collect();
        assert_eq!(statuses, [200, 200, 429]);
        assert_eq!(header(&answers[2], "retry-after"), "10");
        assert_eq!(header(&answers[2], "ratelimit"), "\"default\";r=0;t=10");
        assert_eq!(header(&answers[2], "x-ratelimit-limit"), "2");
        assert_eq!(header(&answers[2], "x-ratelimit-remaining"), "0");
        assert_eq!(header(&answers[2], "x-ratelimit-reset"), "10");
    }

    #[tokio::test]
    async fn a_request_over_the_limit_is_refused_and_told_when_to_come_back() {
        refuses_the_third(Memory::with_room_for(8)).await;
    }

    #[tokio::test]
    async fn a_backend_that_answers_later_decides_the_same() {
        refuses_the_third(Elsewhere(Memory::with_room_for(8))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_request_waited_for_a_decision_it_does_not_wait_again_further_in() {
        #[derive(Clone)]
        struct Slow;
        impl Backend for Slow {
            fn decide(&self, _: &crate::Bucketed<'_>, _: &crate::Terms) -> Verdict {
                Verdict::Later(Box::pin(async {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Decision::Admit { remaining: 1, full_in: Duration::ZERO }
                }))
            }
        }
        let further_in = service_fn(|request: Request<()>| async move {
            let patience = request.extensions().get::<WaitBudget>().unwrap();
            Ok::<_, Infallible>(Response::new(if patience.remaining().as_millis() == 15 {
                "15 ms left"
            } else {
                ""
            }))
        });
        let limits = json!({"capacity": 1, "refillPerSecond": 1});
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::new(Limits::new(
            &serde_json::from_value(limits).unwrap(),
            1,
            false,
        )));
        let answer =
            RateLimitLayer::new(Slow, ASK, too_many).layer(further_in).oneshot(request).await.unwrap();
        assert_eq!(*answer.body(), "15 ms left");
    }

    #[tokio::test]
    async fn shadow_lets_through_and_off_does_nothing() {
        let shadow = json!({"capacity": 1, "refillPerSecond": 1, "mode": "Shadow"});
        let answers = ask(Memory::with_room_for(8), shadow, 3).await;
        assert!(answers.iter().all(|answer| answer.status() == 200));
        assert_eq!(header(&answers[2], "x-ratelimit-remaining"), "0", "the headers tell what would be");
        let off = json!({"capacity": 1, "refillPerSecond": 1, "mode": "Off"});
        let answers = ask(Memory::with_room_for(8), off, 3).await;
        assert!(
            answers.iter().all(|answer| answer.status() == 200 && header(answer, "ratelimit").is_empty())
        );
    }

    #[tokio::test]
    async fn rate_limiter_tracks_allow_rate() {
        let limits = Arc::new(Limits::new(
            &serde_json::from_value(json!({"capacity": 3, "refillPerSecond": 0.001})).unwrap(),
            1,
            false,
        ));
        let layer = RateLimitLayer::new(Memory::with_room_for(8), ASK, too_many);
        let service =
            layer.layer(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new("")) }));
        for _ in 0..4 {
            let mut request = Request::new(());
            request.extensions_mut().insert(Arc::clone(&limits));
            service.clone().oneshot(request).await.unwrap();
        }
        assert_eq!(layer.counts(), [3, 1, 0], "every request is counted once, as what became of it");
    }
}
