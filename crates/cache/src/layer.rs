//! The cache in front of a service.
//!
//! A fresh hit is answered in `call`, without waiting and without a task. What else is done, see
//! [`crate::fetch`].

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    Method, Request, Response, StatusCode,
    header::{IF_MATCH, IF_UNMODIFIED_SINCE, RANGE},
};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    Ask, Cache, Invalidation, Key, Terms,
    answer::{Forward, Told},
    ask::Shared,
    entry::normalised,
    fetch::{Fetch, bodiless},
    flight::Boarding,
    front,
    judge::Verdict,
    memory::Found,
    rfc9111::{CacheControl, Wish},
};

/// Makes [`Cached`] services over one cache.
#[derive(Clone)]
pub struct CacheLayer {
    shared: Arc<Shared>,
}

impl CacheLayer {
    /// A layer over `cache`, called `name` in `Cache-Status`.
    pub fn new(cache: Cache, name: impl Into<String>, ask: Ask) -> Self {
        Self { shared: Arc::new(Shared { cache, ask, name: name.into() }) }
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cached<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Cached { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service behind a cache.
#[derive(Clone)]
pub struct Cached<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Cached<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Body + Default + Send + 'static,
    ResBody: Body<Data = Bytes> + From<Bytes> + Send + 'static,
{
    type Response = Response<ResBody>;
    type Error = Infallible;
    type Future = CacheFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let shared = &self.shared;
        let method = request.method();
        if !method.is_safe() {
            // Also while nothing is cached: what was stored before may be used again under the next policy.
            let path = normalised(request.uri()).split('?').next().map(str::to_owned);
            let forget = Forget { shared: Arc::clone(shared), path };
            return CacheFuture::passing(self.inner.call(request), Some(forget));
        }
        let client = (shared.ask.client)(request.extensions());
        let private = client.authorised;
        let terms = (shared.ask.terms)(request.extensions()).filter(|terms| !terms.is_off());
        let Some(terms) = terms.filter(|_| method == Method::GET || method == Method::HEAD) else {
            return CacheFuture::passing(self.inner.call(request), None).private(private);
        };
        // Parts of an answer, and answers under conditions that only the handler can judge.
        let special = [RANGE, IF_MATCH, IF_UNMODIFIED_SINCE];
        if special.iter().any(|name| request.headers().contains_key(name)) || !request.body().is_end_stream()
        {
            return CacheFuture::passing(self.inner.call(request), None).private(private);
        }
        let control = CacheControl::read(request.headers());
        if control.no_store {
            // Its answer is for it alone, so nobody is made to wait for it.
            return CacheFuture::passing(self.inner.call(request), None).private(private);
        }
        let terms = shared.cache.keepable(terms);
        shared.cache.obey(&terms);
        let uri = normalised(request.uri());
        let hash = shared.cache.hash(client.tenant, &uri);
        let wish = Wish::read(request.headers(), &control);
        let now_ms = shared.cache.now_ms();
        let (spare, forward) = match shared.cache.find(hash, client.tenant, &uri, request.headers(), now_ms) {
            Found::Entry(entry) => match entry.judge(&terms, &wish, now_ms) {
                Verdict::Fresh { left } => {
                    shared.cache.counts().hits.fetch_add(1, Ordering::Relaxed);
                    let told = Told::Hit { ttl: Some(left.as_secs() as i64), detail: None };
                    return CacheFuture::answered(shared.answer(&entry, &request, &terms, now_ms, &told));
                }
                Verdict::Refresh { stale_for } => {
                    shared.cache.counts().stale_hits.fetch_add(1, Ordering::Relaxed);
                    let ttl = -(stale_for.as_secs() as i64);
                    let told = Told::Hit { ttl: Some(ttl), detail: Some("stale-while-revalidate") };
                    let answer = shared.answer(&entry, &request, &terms, now_ms, &told);
                    if let Boarding::Lead(pilot) = shared.cache.board(hash) {
                        let fetch = self.fetch(entry.key.clone(), hash, terms, control);
                        tokio::spawn(fetch.refresh(bodiless(&request), pilot));
                    }
                    return CacheFuture::answered(answer);
                }
                Verdict::Spare { .. } => {
                    (Some(entry), if wish.reload { Forward::Request } else { Forward::Stale })
                }
                Verdict::Dead => (None, Forward::Stale),
            },
            Found::Pass if method == Method::GET && !wish.only_if_cached => {
                shared.cache.counts().misses.fetch_add(1, Ordering::Relaxed);
                return CacheFuture::passing(self.inner.call(request), None).private(private);
            }
            Found::Pass | Found::Nothing => (None, Forward::UriMiss),
        };
        if wish.only_if_cached {
            let mut answer = Response::new(ResBody::from(Bytes::new()));
            *answer.status_mut() = StatusCode::GATEWAY_TIMEOUT;
            return CacheFuture::answered(answer);
        }
        if method == Method::HEAD {
            shared.cache.counts().misses.fetch_add(1, Ordering::Relaxed);
            return CacheFuture::passing(self.inner.call(request), None).private(private);
        }
        let key = Key { tenant: client.tenant.into(), uri: uri.as_ref().into() };
        let fetch = self.fetch(key, hash, terms, control);
        CacheFuture::waiting(Box::pin(fetch.answer(request, wish, spare, forward))).private(private)
    }
}

impl<S> Cached<S> {
    fn fetch(&self, key: Key, hash: u64, terms: Terms, control: CacheControl) -> Fetch<S>
    where
        S: Clone,
    {
        Fetch { inner: self.inner.clone(), shared: Arc::clone(&self.shared), key, hash, terms, control }
    }
}

/// Makes the stored answers for the target of an unsafe request invalid when it is over (RFC 9111, section 4.4),
/// unless it failed. One whose client went away may have done its work.
struct Forget {
    shared: Arc<Shared>,
    path: Option<String>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            self.shared.cache.invalidate(Invalidation::Path(path));
        }
    }
}

pin_project! {
    /// The answer of a service behind a cache.
    pub struct CacheFuture<F, ResBody> {
        #[pin]
        state: State<F, ResBody>,
        // Whether what the handler answers is kept from caches in front.
        private: bool,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, ResBody> {
        Answered { answer: Option<Response<ResBody>> },
        Passing { #[pin] future: F, forget: Option<Forget> },
        Waiting { future: BoxFuture<'static, Result<Response<ResBody>, Infallible>> },
    }
}

impl<F, ResBody> CacheFuture<F, ResBody> {
    fn answered(answer: Response<ResBody>) -> Self {
        Self { state: State::Answered { answer: Some(answer) }, private: false }
    }

    fn passing(future: F, forget: Option<Forget>) -> Self {
        Self { state: State::Passing { future, forget }, private: false }
    }

    fn waiting(future: BoxFuture<'static, Result<Response<ResBody>, Infallible>>) -> Self {
        Self { state: State::Waiting { future }, private: false }
    }

    fn private(self, private: bool) -> Self {
        Self { private, ..self }
    }
}

impl<F, ResBody> Future for CacheFuture<F, ResBody>
where
    F: Future<Output = Result<Response<ResBody>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = match this.state.project() {
            StateProjection::Answered { answer } => {
                answer.take().expect("a future is not polled after it is done")
            }
            StateProjection::Passing { future, forget } => {
                let Ok(answer) = ready!(future.poll(cx));
                if let Some(mut forget) = forget.take()
                    && !(answer.status().is_success() || answer.status().is_redirection())
                {
                    forget.path = None;
                }
                answer
            }
            StateProjection::Waiting { future } => {
                let Ok(answer) = ready!(future.as_mut().poll(cx));
                answer
            }
        };
        if *this.private {
            front::keep_private(answer.headers_mut());
        }
        Poll::Ready(Ok(answer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::Full;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{Client, invalidation::HELD_AGAINST};

    const TERMS: Terms = Terms {
        ttl: Duration::from_mins(1),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        max_entries: 10_000,
    };

    const ASK: Ask = Ask {
        terms: |_| Some(&TERMS),
        client: |_| Client { tenant: "", authorised: false },
        label: |_| Box::default(),
        set_label: |_, _| {},
    };

    /// It once looked at every answer in memory.
    #[tokio::test]
    async fn the_work_of_an_unsafe_request_does_not_grow_with_the_answers_stored() {
        let cache = Cache::new(None);
        let layer = CacheLayer::new(cache.clone(), "test", ASK);
        let inner = service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"yes"))))
        });
        let send = |method: Method, uri: String| {
            let request = Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
            layer.layer(inner).oneshot(request)
        };
        for i in 0..1_000 {
            let Ok(_) = send(Method::GET, format!("/{i}?q")).await;
        }
        HELD_AGAINST.set(0);
        let Ok(_) = send(Method::POST, "/7".into()).await;
        let Ok(_) = send(Method::DELETE, "/elsewhere".into()).await;
        assert_eq!((HELD_AGAINST.get(), cache.stats().entries), (1, 999));
    }
}
