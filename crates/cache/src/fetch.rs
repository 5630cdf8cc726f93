//! What is done about a request that memory does not answer.
//!
//! The handler is asked once per key, in a task of its own: a client that goes away does not take
//! the answer from the others. Every wait has an end, and whoever waited in vain asks for itself.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE},
};
use http_body::Body;
use http_body_util::{BodyExt, Collected};
use phase6_redis::WaitBudget;
use tokio::sync::oneshot;
use tower::Service;

use crate::{
    Entry, Key, Terms, Ticket,
    answer::{Forward, Told},
    ask::Shared,
    cache::{Mark, Outcome},
    entry::sent,
    flight::{Boarding, Pilot},
    judge::{Verdict, judge},
    kept::{failure_of_all, kept_headers, tags},
    memory::Found,
    rfc9111::{CacheControl, Wish, storable},
};

/// Largest body that is stored.
pub(crate) const LARGEST_BODY: u64 = 1024 * 1024;
/// Longest time that a body which is to be stored may take.
const BODY_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for another one's fetch; above what a handler and its body may take.
const FLIGHT_LIMIT: Duration = Duration::from_secs(90);
/// Most fetches at a time; beyond them a request is answered on its own. A fetch goes on when its
/// client has gone, so the cap on requests under way does not bound them.
const MOST_FLIGHTS: usize = 1024;
/// What came from the handler no longer ago was made for those who wait for it.
const JUST_MADE_MS: u64 = 1_000;
/// The same request again, for a fetch that nobody waits for.
pub(crate) fn bodiless<ReqBody: Default>(request: &Request<ReqBody>) -> Request<ReqBody> {
    let mut again = Request::new(ReqBody::default());
    *again.method_mut() = Method::GET;
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    // What is fetched is for everybody, whatever this client has already.
    for name in [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE] {
        again.headers_mut().remove(name);
    }
    *again.extensions_mut() = request.extensions().clone();
    again
}

/// What is done to answer one request that memory does not answer.
pub(crate) struct Fetch<S> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Key,
    pub(crate) hash: u64,
    pub(crate) terms: Terms,
    pub(crate) control: CacheControl,
}

/// What a finished fetch gives to the one who began it.
pub(crate) enum Fetched<ResBody> {
    Entry(Arc<Entry>, bool),
    Answer(Response<ResBody>),
}

impl<S> Fetch<S> {
    pub(crate) async fn answer<ReqBody, ResBody>(
        self,
        request: Request<ReqBody>,
        wish: Wish,
        mut spare: Option<Arc<Entry>>,
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
        let terms = self.terms;
        let again = bodiless(&request);
        if cache.in_flight() >= MOST_FLIGHTS {
            cache.counts().misses.fetch_add(1, Ordering::Relaxed);
            return inner.call(request).await;
        }
        let question = Question { key: &self.key, headers: again.headers(), terms: &terms, wish: &wish };
        let pilot = match shared.board(self.hash, &question).await {
            Boarded::Lead(pilot) => pilot,
            Boarded::Told(entry) => {
                return Ok(shared.settle(&entry, spare.as_deref(), &request, &terms, Told::Joined));
            }
            Boarded::Alone => {
                cache.counts().misses.fetch_add(1, Ordering::Relaxed);
                return inner.call(request).await;
            }
        };
        // What the level behind memory holds is looked at while others already wait.
        let patience = again.extensions().get().copied().unwrap_or_default();
        let mut ticket = None;
        if spare.is_none() || cache.is_shared() {
            let (found, kept) = shared.look_behind(&question, patience).await;
            ticket = kept;
            if let Some((entry, mark)) = found {
                let now_ms = cache.now_ms();
                match question.judge(&entry, now_ms) {
                    Verdict::Fresh { left } => {
                        cache.counts().hits.fetch_add(1, Ordering::Relaxed);
                        let entry_there = Arc::clone(&entry);
                        pilot.land(Outcome::Answer { entry: entry_there, mark, fetched_at_ms: None });
                        let ttl = Some(left.as_secs() as i64);
                        let told = Told::Hit { ttl, detail: Some("second-level") };
                        return Ok(shared.answer(&entry, &request, &terms, now_ms, &told));
                    }
                    Verdict::Refresh { .. } | Verdict::Spare { .. } => spare = Some(entry),
                    Verdict::Dead => {}
                }
            }
        }
        let (tell, told) = oneshot::channel();
        tokio::spawn(self.run(again, pilot, Some(tell), ticket));
        let mut answer = match told.await {
            Ok(Fetched::Entry(entry, stored)) => {
                let told = Told::Forward { why: forward, stored };
                return Ok(shared.settle(&entry, spare.as_deref(), &request, &terms, told));
            }
            Ok(Fetched::Answer(answer)) => answer,
            // The task panicked: this request still gets its own try.
            Err(_) => inner.call(bodiless(&request)).await?,
        };
        if let Some(spare) = spare.filter(|_| answer.status().is_server_error()) {
            return Ok(shared.stand_in(&spare, &request, &terms));
        }
        cache.counts().misses.fetch_add(1, Ordering::Relaxed);
        shared.tell(&mut answer, &Told::Forward { why: forward, stored: false });
        Ok(answer)
    }

    /// Makes a new answer in the place of a stale one, unless another replica has made one.
    pub(crate) async fn refresh<ReqBody, ResBody>(self, request: Request<ReqBody>, pilot: Pilot<u64, Outcome>)
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible>,
        ResBody: Body<Data = Bytes> + From<Bytes>,
    {
        let shared = Arc::clone(&self.shared);
        let cache = &shared.cache;
        let mut ticket = None;
        if cache.is_shared() {
            let (terms, wish) = (&self.terms, &Wish::default());
            let question = Question { key: &self.key, headers: request.headers(), terms, wish };
            let (found, kept) = shared.look_behind(&question, WaitBudget::default()).await;
            let fresh = found.filter(|(entry, _)| question.is_fresh(entry, cache.now_ms()));
            if let Some((entry, mark)) = fresh {
                pilot.land(Outcome::Answer { entry, mark, fetched_at_ms: None });
                return;
            }
            ticket = kept;
        }
        self.run(request, pilot, None, ticket).await;
    }

    /// Asks the handler, stores what may be stored, and tells everybody.
    pub(crate) async fn run<ReqBody, ResBody>(
        mut self,
        request: Request<ReqBody>,
        pilot: Pilot<u64, Outcome>,
        tell: Option<oneshot::Sender<Fetched<ResBody>>>,
        ticket: Ticket,
    ) where
        S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible>,
        ResBody: Body<Data = Bytes> + From<Bytes>,
    {
        let cache = self.shared.cache.clone();
        let mark = cache.mark();
        let began_at_ms = cache.now_ms();
        let headers = request.headers().clone();
        let extensions = request.extensions().clone();
        let client = (self.shared.ask.client)(&extensions);
        let Ok(answer) = self.inner.call(request).await;
        let tags = tags(answer.headers());
        let kept = storable(&self.control, client.authorised, answer.status(), answer.headers());
        let keep = kept.is_some();
        let shared = kept.or_else(|| failure_of_all(client.authorised, &answer)).filter(|_| tags.is_some());
        let small = answer.body().size_hint().exact().is_some_and(|size| size <= LARGEST_BODY);
        let Some(storable) = shared.filter(|_| small) else {
            // What one caller with credentials is told says nothing about others under the same key.
            if !client.authorised || !self.key.tenant.is_empty() {
                cache.pass(self.hash);
            }
            pilot.land(Outcome::Alone);
            if let Some(tell) = tell {
                let _ = tell.send(Fetched::Answer(answer));
            }
            return;
        };
        let (parts, body) = answer.into_parts();
        let body = tokio::time::timeout(BODY_LIMIT, body.collect()).await;
        let failed = match body {
            Ok(Ok(_)) => StatusCode::OK,
            Ok(Err(_)) => StatusCode::BAD_GATEWAY,
            Err(_) => StatusCode::GATEWAY_TIMEOUT,
        };
        let Ok(Ok(body)) = body.map(|body| body.map(Collected::to_bytes)) else {
            pilot.land(Outcome::Alone);
            if let Some(tell) = tell {
                let mut broken = Response::new(ResBody::from(Bytes::new()));
                *broken.status_mut() = failed;
                let _ = tell.send(Fetched::Answer(broken));
            }
            return;
        };
        let label = (self.shared.ask.label)(&extensions);
        let entry = Arc::new(Entry {
            vary: storable.vary.iter().map(|name| (name.clone(), sent(&headers, name))).collect(),
            tags: tags.unwrap_or_default(),
            status: parts.status,
            headers: kept_headers(parts.headers, &body, keep),
            body,
            storable,
            made_at_ms: began_at_ms,
            jitter: cache.jitter(self.hash, began_at_ms),
            label,
            key: self.key,
        });
        let stored = keep && cache.store(&entry, &headers, mark, &self.terms, ticket);
        let fetched_at_ms = Some(cache.now_ms());
        pilot.land(Outcome::Answer { entry: Arc::clone(&entry), mark, fetched_at_ms });
        if let Some(tell) = tell {
            let _ = tell.send(Fetched::Entry(entry, stored));
        }
    }
}

/// What is asked, and under which terms.
struct Question<'a> {
    key: &'a Key,
    headers: &'a HeaderMap,
    terms: &'a Terms,
    wish: &'a Wish,
}

impl Question<'_> {
    fn judge(&self, entry: &Entry, now_ms: u64) -> Verdict {
        entry.judge(self.terms, self.wish, now_ms)
    }

    fn is_fresh(&self, entry: &Entry, now_ms: u64) -> bool {
        matches!(self.judge(entry, now_ms), Verdict::Fresh { .. })
    }
}

/// What a request does for which others may be asking too.
enum Boarded {
    /// It asks, and tells the others.
    Lead(Pilot<u64, Outcome>),
    /// It was told.
    Told(Arc<Entry>),
    /// It asks for itself.
    Alone,
}

impl Shared {
    /// Waits for another one's fetch under this key, if there is one.
    async fn board(&self, hash: u64, question: &Question<'_>) -> Boarded {
        let cache = &self.cache;
        let mut has_waited = false;
        loop {
            let passenger = match cache.board(hash) {
                Boarding::Lead(pilot) => return Boarded::Lead(pilot),
                Boarding::Wait(passenger) => passenger,
            };
            let landed = tokio::time::timeout(FLIGHT_LIMIT, passenger.landed()).await;
            let Ok(Some(Outcome::Answer { entry, mark, fetched_at_ms })) = landed else {
                return Boarded::Alone;
            };
            // A client that has just changed something must not be given what was made before. Of those who
            // waited in vain one asks for all: what is made then was begun after they came, and suits them as
            // well as one of their own, whatever is forgotten meanwhile.
            if !has_waited && cache.invalidated_since(mark, &entry) {
                has_waited = true;
                let now_ms = cache.now_ms();
                let Question { key, headers, .. } = question;
                if let Found::Entry(next) = cache.find(hash, &key.tenant, &key.uri, headers, now_ms)
                    && question.is_fresh(&next, now_ms)
                {
                    return Boarded::Told(next);
                }
                continue;
            }
            let suits = self.suits(&entry, fetched_at_ms, question);
            return if suits { Boarded::Told(entry) } else { Boarded::Alone };
        }
    }

    /// Whether what another request's fetch brought, which was not forgotten, will do for this one.
    fn suits(&self, entry: &Entry, fetched_at_ms: Option<u64>, question: &Question<'_>) -> bool {
        let now_ms = self.cache.now_ms();
        // Just made it suits all who waited for it, a failure too; what was there is held against each wish.
        let just_made = fetched_at_ms.is_some_and(|at| now_ms.saturating_sub(at) < JUST_MADE_MS);
        let Question { key, headers, .. } = question;
        entry.answers(&key.tenant, &key.uri, headers)
            && (just_made && entry.is_for_all_who_waited()
                || matches!(question.judge(entry, now_ms), Verdict::Fresh { .. } | Verdict::Refresh { .. }))
    }

    /// Looks for an answer that is fresh in the level behind memory. A stale one may be found too.
    async fn look_behind(
        &self,
        question: &Question<'_>,
        patience: WaitBudget,
    ) -> (Option<(Arc<Entry>, Mark)>, Ticket) {
        let is_fresh = |entry: &Entry| question.is_fresh(entry, self.cache.now_ms());
        self.cache.promote(question.key, question.headers, patience, &is_fresh).await
    }
}

impl Entry {
    /// Whether it answers all who waited while it was made: unless it says that it is old already.
    fn is_for_all_who_waited(&self) -> bool {
        self.status.is_server_error() || self.storable.lifetime.is_none_or(|own| own > self.storable.age)
    }

    pub(crate) fn judge(&self, terms: &Terms, wish: &Wish, now_ms: u64) -> Verdict {
        judge(&self.storable, self.is_negative(), self.jitter, self.age(now_ms), terms, wish)
    }
}
