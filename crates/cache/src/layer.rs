//! The cache in front of a service.
//!
//! A fresh hit is answered in `call`, without waiting and without a task. A miss is fetched once
//! per key, in a task of its own: a client that goes away does not take the answer from the
//! others. Every answer says in `Cache-Status` (RFC 9211) what was done.

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
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        AGE, CONNECTION, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body::Body;
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;
use tower::{Layer, Service};

use crate::{
    Cache, Entry, Invalidation, Key, Terms,
    cache::Outcome,
    entry::normalised,
    flight::{Boarding, Pilot},
    judge::{Verdict, judge},
    memory::Found,
    rfc9111::{CacheControl, Wish, storable},
};

/// Largest body that is stored.
const LARGEST_BODY: u64 = 1024 * 1024;
/// Headers that are added to a stored answer on its way out.
const ROOM_FOR_HEADERS: usize = 12;
/// Most tags of one answer.
const MOST_TAGS: usize = 32;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Whose answers these are; empty for the anonymous.
    pub tenant: &'a str,
    /// Whether the request carried credentials.
    pub authorised: bool,
}

/// What the layer asks of each request.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The cache terms in force for it; none: nothing is cached.
    pub terms: fn(&Extensions) -> Option<&Terms>,
    /// Who asks.
    pub client: fn(&Extensions) -> Client<'_>,
    /// A number that the request has after it was answered, kept with the answer.
    pub label: fn(&Extensions) -> u16,
    /// Gives the number again to a request that is answered from the cache.
    pub set_label: fn(&Extensions, u16),
}

/// Makes [`Cached`] services over one cache.
#[derive(Clone)]
pub struct CacheLayer {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Cache,
    ask: Ask,
    /// This cache's name in `Cache-Status`.
    name: String,
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

/// Why the handler was asked, in the words of RFC 9211.
#[derive(Clone, Copy)]
enum Forward {
    UriMiss,
    Stale,
    Request,
}

impl Forward {
    const fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
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
        let terms = (shared.ask.terms)(request.extensions()).filter(|terms| !terms.is_off());
        let Some(terms) = terms else {
            return CacheFuture::passing(self.inner.call(request), None);
        };
        let method = request.method();
        if method != Method::GET && method != Method::HEAD {
            let forget = (!method.is_safe()).then(|| (Arc::clone(shared), request.uri().path().to_owned()));
            return CacheFuture::passing(self.inner.call(request), forget);
        }
        if request.headers().contains_key(RANGE) || !request.body().is_end_stream() {
            return CacheFuture::passing(self.inner.call(request), None);
        }
        let control = CacheControl::read(request.headers());
        if control.no_store {
            // Its answer is for it alone, so nobody is made to wait for it.
            return CacheFuture::passing(self.inner.call(request), None);
        }
        let terms = *terms;
        shared.cache.obey(&terms);
        let client = (shared.ask.client)(request.extensions());
        let uri = normalised(request.uri());
        let hash = shared.cache.hash(client.tenant, &uri);
        let wish = Wish::read(request.headers(), &control);
        let now_ms = shared.cache.now_ms();
        let (spare, forward) = match shared.cache.find(hash, client.tenant, &uri, request.headers(), now_ms) {
            Found::Entry(entry) => match entry.judge(&terms, &wish, now_ms) {
                Verdict::Fresh { left } => {
                    shared.cache.counts().hits.fetch_add(1, Ordering::Relaxed);
                    let told = Told::Hit { ttl: Some(left.as_secs() as i64), detail: None };
                    return CacheFuture::answered(shared.answer(&entry, &request, now_ms, told));
                }
                Verdict::Refresh { stale_for } => {
                    shared.cache.counts().stale_hits.fetch_add(1, Ordering::Relaxed);
                    let ttl = -(stale_for.as_secs() as i64);
                    let told = Told::Hit { ttl: Some(ttl), detail: Some("stale-while-revalidate") };
                    let answer = shared.answer(&entry, &request, now_ms, told);
                    if let Boarding::Lead(pilot) = shared.cache.board(hash) {
                        let fetch = self.fetch(entry.key.clone(), hash, terms, control);
                        tokio::spawn(fetch.run(bodiless(&request), pilot, None));
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
                return CacheFuture::passing(self.inner.call(request), None);
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
            return CacheFuture::passing(self.inner.call(request), None);
        }
        let key = Key { tenant: client.tenant.into(), uri: uri.as_ref().into() };
        let fetch = self.fetch(key, hash, terms, control);
        CacheFuture::waiting(Box::pin(fetch.answer(request, wish, spare, forward)))
    }
}

impl Entry {
    pub(crate) fn judge(&self, terms: &Terms, wish: &Wish, now_ms: u64) -> Verdict {
        judge(&self.storable, self.is_negative(), self.jitter, self.age(now_ms), terms, wish)
    }
}

/// The same request again, for a fetch that nobody waits for.
fn bodiless<ReqBody: Default>(request: &Request<ReqBody>) -> Request<ReqBody> {
    let mut again = Request::new(ReqBody::default());
    *again.method_mut() = Method::GET;
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    again.headers_mut().remove(IF_NONE_MATCH);
    *again.extensions_mut() = request.extensions().clone();
    again
}

impl<S> Cached<S> {
    fn fetch(&self, key: Key, hash: u64, terms: Terms, control: CacheControl) -> Fetch<S>
    where
        S: Clone,
    {
        Fetch { inner: self.inner.clone(), shared: Arc::clone(&self.shared), key, hash, terms, control }
    }
}

/// What is done to answer one request that memory does not answer.
struct Fetch<S> {
    inner: S,
    shared: Arc<Shared>,
    key: Key,
    hash: u64,
    terms: Terms,
    control: CacheControl,
}

/// What a finished fetch gives to the one who began it.
enum Fetched<ResBody> {
    Entry(Arc<Entry>, bool),
    Answer(Response<ResBody>),
}

impl<S> Fetch<S> {
    async fn answer<ReqBody, ResBody>(
        self,
        request: Request<ReqBody>,
        wish: Wish,
        spare: Option<Arc<Entry>>,
        forward: Forward,
    ) -> Result<Response<ResBody>, Infallible>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        ReqBody: Body + Default + Send + 'static,
        ResBody: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let cache = &shared.cache;
        let mut inner = self.inner.clone();
        let again = bodiless(&request);
        match cache.board(self.hash) {
            Boarding::Wait(passenger) => {
                if let Some(Outcome::Answer(entry)) = passenger.landed().await
                    && entry.answers(&self.key.tenant, &self.key.uri, request.headers())
                {
                    cache.counts().joined.fetch_add(1, Ordering::Relaxed);
                    return Ok(shared.settle(entry, spare, &request, forward, None));
                }
                cache.counts().misses.fetch_add(1, Ordering::Relaxed);
                inner.call(request).await
            }
            Boarding::Lead(pilot) => {
                let mut spare = spare;
                // What the level behind memory holds is looked at while others already wait.
                if spare.is_none()
                    && let Some(entry) = cache.promote(&self.key).await
                {
                    let now_ms = cache.now_ms();
                    match entry.judge(&self.terms, &wish, now_ms) {
                        Verdict::Fresh { left } => {
                            cache.counts().hits.fetch_add(1, Ordering::Relaxed);
                            pilot.land(Outcome::Answer(Arc::clone(&entry)));
                            let ttl = Some(left.as_secs() as i64);
                            let told = Told::Hit { ttl, detail: Some("second-level") };
                            return Ok(shared.answer(&entry, &request, now_ms, told));
                        }
                        Verdict::Refresh { .. } | Verdict::Spare { .. } => spare = Some(entry),
                        Verdict::Dead => {}
                    }
                }
                cache.counts().misses.fetch_add(1, Ordering::Relaxed);
                let (tell, told) = oneshot::channel();
                tokio::spawn(self.run(again, pilot, Some(tell)));
                let mut answer = match told.await {
                    Ok(Fetched::Entry(entry, stored)) => {
                        return Ok(shared.settle(entry, spare, &request, forward, Some(stored)));
                    }
                    Ok(Fetched::Answer(answer)) => answer,
                    // The task panicked: this request still gets its own try.
                    Err(_) => inner.call(bodiless(&request)).await?,
                };
                if let Some(spare) = spare.filter(|_| answer.status().is_server_error()) {
                    return Ok(shared.stand_in(&spare, &request));
                }
                shared.tell(&mut answer, &Told::Forward { why: forward, stored: false });
                Ok(answer)
            }
        }
    }

    /// Asks the handler, stores what may be stored, and tells everybody.
    async fn run<ReqBody, ResBody>(
        mut self,
        request: Request<ReqBody>,
        pilot: Pilot<u64, Outcome>,
        tell: Option<oneshot::Sender<Fetched<ResBody>>>,
    ) where
        S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible>,
        ResBody: Body<Data = Bytes> + From<Bytes>,
    {
        let cache = self.shared.cache.clone();
        let mark = cache.mark();
        let headers = request.headers().clone();
        let extensions = request.extensions().clone();
        let client = (self.shared.ask.client)(&extensions);
        let Ok(answer) = self.inner.call(request).await;
        let terms = storable(&self.control, client.authorised, answer.status(), answer.headers());
        let small = answer.body().size_hint().exact().is_some_and(|size| size <= LARGEST_BODY);
        // A failure is shared with those who wait for it now, but not kept.
        let shareable = terms.is_some() || answer.status().is_server_error();
        if !small || !shareable {
            cache.pass(self.hash);
            pilot.land(Outcome::Alone);
            if let Some(tell) = tell {
                let _ = tell.send(Fetched::Answer(answer));
            }
            return;
        }
        let (parts, body) = answer.into_parts();
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            pilot.land(Outcome::Alone);
            if let Some(tell) = tell {
                let mut broken = Response::new(ResBody::from(Bytes::new()));
                *broken.status_mut() = StatusCode::BAD_GATEWAY;
                let _ = tell.send(Fetched::Answer(broken));
            }
            return;
        };
        let keep = terms.is_some();
        let storable = terms.unwrap_or_else(never);
        let label = (self.shared.ask.label)(&extensions);
        let entry = Arc::new(Entry {
            vary: storable.vary.iter().map(|name| (name.clone(), headers.get(name).cloned())).collect(),
            tags: tags(&parts.headers),
            status: parts.status,
            headers: kept_headers(parts.headers, &body, keep),
            body,
            storable,
            stored_at_ms: cache.now_ms(),
            jitter: 1.0 - rand::random::<f64>() * 0.1,
            label,
            key: self.key,
        });
        let stored = keep && cache.store(&entry, &headers, mark);
        pilot.land(Outcome::Answer(Arc::clone(&entry)));
        if let Some(tell) = tell {
            let _ = tell.send(Fetched::Entry(entry, stored));
        }
    }
}

fn never() -> crate::rfc9111::Storable {
    crate::rfc9111::Storable {
        lifetime: Some(std::time::Duration::ZERO),
        must_revalidate: true,
        stale_while_revalidate: None,
        stale_if_error: None,
        age: std::time::Duration::ZERO,
        vary: vec![],
    }
}

fn tags(headers: &HeaderMap) -> Vec<Box<str>> {
    let text = headers.get(SURROGATE_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split_ascii_whitespace().take(MOST_TAGS).map(Into::into).collect()
}

/// Headers worth keeping: not those of one connection, and with an `ETag` to compare by.
fn kept_headers(mut headers: HeaderMap, body: &Bytes, keep: bool) -> HeaderMap {
    // The length is that of the body, which is sent or not.
    for name in
        [CONNECTION, CONTENT_LENGTH, KEEP_ALIVE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, CACHE_STATUS]
    {
        headers.remove(name);
    }
    if keep && !headers.contains_key(ETAG) {
        use std::hash::BuildHasher;
        let hash = foldhash::quality::FixedState::default().hash_one(body);
        headers.insert(ETAG, HeaderValue::from_str(&format!("\"{hash:016x}\"")).expect("hexadecimal digits"));
    }
    headers
}

/// What `Cache-Status` says.
enum Told {
    Hit { ttl: Option<i64>, detail: Option<&'static str> },
    Joined,
    Forward { why: Forward, stored: bool },
}

impl Shared {
    /// The answer to a request for which an entry was fetched, or the spare one if that failed.
    /// `stored` is none for a request that waited for another one's fetch.
    fn settle<ReqBody, ResBody: From<Bytes>>(
        &self,
        entry: Arc<Entry>,
        spare: Option<Arc<Entry>>,
        request: &Request<ReqBody>,
        why: Forward,
        stored: Option<bool>,
    ) -> Response<ResBody> {
        if let Some(spare) = spare.filter(|_| entry.status.is_server_error()) {
            return self.stand_in(&spare, request);
        }
        let told = stored.map_or(Told::Joined, |stored| Told::Forward { why, stored });
        self.answer(&entry, request, self.cache.now_ms(), told)
    }

    /// A stale answer in the place of a failed one.
    fn stand_in<ReqBody, ResBody: From<Bytes>>(
        &self,
        spare: &Entry,
        request: &Request<ReqBody>,
    ) -> Response<ResBody> {
        self.cache.counts().stale_hits.fetch_add(1, Ordering::Relaxed);
        let told = Told::Hit { ttl: None, detail: Some("stale-if-error") };
        self.answer(spare, request, self.cache.now_ms(), told)
    }

    fn answer<ReqBody, ResBody: From<Bytes>>(
        &self,
        entry: &Entry,
        request: &Request<ReqBody>,
        now_ms: u64,
        told: Told,
    ) -> Response<ResBody> {
        (self.ask.set_label)(request.extensions(), entry.label);
        let unchanged = request
            .headers()
            .get(IF_NONE_MATCH)
            .is_some_and(|wanted| matches_etag(wanted, entry.headers.get(ETAG)));
        let mut answer = if unchanged || request.method() == Method::HEAD {
            Response::new(ResBody::from(Bytes::new()))
        } else {
            Response::new(ResBody::from(entry.body.clone()))
        };
        *answer.status_mut() = if unchanged { StatusCode::NOT_MODIFIED } else { entry.status };
        // With room for what the layers outside add, so that the map does not grow on every hit.
        let mut headers = HeaderMap::with_capacity(entry.headers.len() + ROOM_FOR_HEADERS);
        for (name, value) in &entry.headers {
            headers.append(name.clone(), value.clone());
        }
        *answer.headers_mut() = headers;
        if request.method() == Method::HEAD && !unchanged {
            answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(entry.body.len()));
        }
        let age = (entry.age(now_ms) + entry.storable.age).as_secs();
        answer.headers_mut().insert(AGE, HeaderValue::from(age));
        self.tell(&mut answer, &told);
        answer
    }

    fn tell<ResBody>(&self, answer: &mut Response<ResBody>, told: &Told) {
        // On the path of every hit, so without `format!`.
        let mut text = String::with_capacity(self.name.len() + 64);
        text.push_str(&self.name);
        match told {
            Told::Hit { ttl, detail } => {
                text.push_str("; hit");
                if let Some(ttl) = ttl {
                    text.push_str("; ttl=");
                    text.push_str(itoa::Buffer::new().format(*ttl));
                }
                if let Some(detail) = detail {
                    text.push_str("; detail=");
                    text.push_str(detail);
                }
            }
            Told::Joined => text.push_str("; fwd=uri-miss; collapsed"),
            Told::Forward { why, stored } => {
                text.push_str("; fwd=");
                text.push_str(why.as_str());
                if *stored {
                    text.push_str("; stored");
                }
            }
        }
        if let Ok(value) = HeaderValue::from_str(&text) {
            answer.headers_mut().append(CACHE_STATUS, value);
        }
    }
}

/// Whether `If-None-Match` names the entry's tag; weak comparison, as the standard asks.
fn matches_etag(wanted: &HeaderValue, held: Option<&HeaderValue>) -> bool {
    let (Ok(wanted), Some(Ok(held))) = (wanted.to_str(), held.map(HeaderValue::to_str)) else { return false };
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    wanted.trim() == "*" || wanted.split(',').any(|tag| strong(tag) == strong(held))
}

pin_project! {
    /// The answer of a service behind a cache.
    pub struct CacheFuture<F, ResBody> {
        #[pin]
        state: State<F, ResBody>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, ResBody> {
        Answered { answer: Option<Response<ResBody>> },
        Passing { #[pin] future: F, forget: Option<(Arc<Shared>, String)> },
        Waiting { future: BoxFuture<'static, Result<Response<ResBody>, Infallible>> },
    }
}

impl<F, ResBody> CacheFuture<F, ResBody> {
    fn answered(answer: Response<ResBody>) -> Self {
        Self { state: State::Answered { answer: Some(answer) } }
    }

    fn passing(future: F, forget: Option<(Arc<Shared>, String)>) -> Self {
        Self { state: State::Passing { future, forget } }
    }

    fn waiting(future: BoxFuture<'static, Result<Response<ResBody>, Infallible>>) -> Self {
        Self { state: State::Waiting { future } }
    }
}

impl<F, ResBody> Future for CacheFuture<F, ResBody>
where
    F: Future<Output = Result<Response<ResBody>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Answered { answer } => {
                Poll::Ready(Ok(answer.take().expect("a future is not polled after it is done")))
            }
            StateProjection::Passing { future, forget } => {
                let Ok(answer) = ready!(future.poll(cx));
                // RFC 9111, section 4.4: a successful unsafe request makes its target's stored
                // answers invalid.
                if let Some((shared, path)) = forget.take()
                    && (answer.status().is_success() || answer.status().is_redirection())
                {
                    shared.cache.invalidate(Invalidation::Path(path));
                }
                Poll::Ready(Ok(answer))
            }
            StateProjection::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}
