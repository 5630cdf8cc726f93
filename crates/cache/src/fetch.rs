//! Serves requests that have no usable entry in memory.
//!
//! The handler is called once per key, in a separate task: a client that disconnects does not cancel the
//! fetch for the others. Every wait has a time limit; a request whose wait ended without a response calls
//! the handler itself. Leaves hits in memory to [`crate::layer`].

mod join;

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode,
    header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE},
};
use http_body::Body;
use http_body_util::{BodyExt, Collected};
use phase6_redis::WaitBudget;
use tokio::sync::oneshot;
use tower::Service;

use self::join::{FetchQuery, JoinResult};
use crate::{
    CachePolicy, Entry, Key,
    accessors::LayerState,
    cache::{FetchOutcome, PromotedEntry},
    entry::combined_value,
    freshness::Freshness,
    level::BoxFillGuard,
    response::{CacheStatus, ForwardReason},
    rfc9111::{CacheControl, RequestDirectives, storable},
    single_flight::Leader,
    storable::{reusable_headers, shared_failure, tags},
};

/// Largest body that is stored, in bytes.
pub(crate) const MAX_BODY: u64 = 1024 * 1024;
/// Longest time that collecting the body of a shareable response may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest number of concurrent fetches; beyond it a request calls the handler directly. A fetch outlives its
/// client, so the limit on concurrent requests does not bound the number of fetches.
const MAX_FETCHES: usize = 1024;

/// Returns the request that fetches a response usable by every client: a `GET` without body and without the
/// preconditions of this client.
pub(crate) fn fetch_request<ReqBody: Default>(request: &Request<ReqBody>) -> Request<ReqBody> {
    let mut fetch = Request::new(ReqBody::default());
    *fetch.method_mut() = Method::GET;
    *fetch.uri_mut() = request.uri().clone();
    *fetch.headers_mut() = request.headers().clone();
    for name in [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE] {
        fetch.headers_mut().remove(name);
    }
    *fetch.extensions_mut() = request.extensions().clone();
    fetch
}

/// Context of one request that has no usable entry in memory.
pub(crate) struct Fetch<S> {
    pub(crate) inner: S,
    pub(crate) state: Arc<LayerState>,
    pub(crate) key: Key,
    pub(crate) hash: u64,
    pub(crate) policy: CachePolicy,
    /// `Cache-Control` of the request.
    pub(crate) control: CacheControl,
}

/// Result of a fetch, for the request that began it.
enum FetchResult<ResBody> {
    /// The response may be used by other requests too.
    Shareable { entry: Arc<Entry>, stored: bool },
    /// The response is for this request only.
    Own(Response<ResBody>),
}

impl<S> Fetch<S> {
    /// Serves the request from another request's fetch, from the second level, or from the handler.
    /// `fallback` is a stale entry that may replace a failure.
    pub(crate) async fn respond<ReqBody, ResBody>(
        self,
        request: Request<ReqBody>,
        directives: RequestDirectives,
        mut fallback: Option<Arc<Entry>>,
        reason: ForwardReason,
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
        let state = Arc::clone(&self.state);
        let cache = &state.cache;
        let mut inner = self.inner.clone();
        let policy = self.policy;
        let fetch = fetch_request(&request);
        if cache.in_flight() >= MAX_FETCHES {
            cache.counters().misses.fetch_add(1, Ordering::Relaxed);
            return inner.call(request).await;
        }
        let query =
            FetchQuery { key: &self.key, headers: fetch.headers(), policy: &policy, directives: &directives };
        let leader = match state.join_fetch(self.hash, &query).await {
            JoinResult::Leader(leader) => leader,
            JoinResult::Response(entry) => {
                let status = CacheStatus::Collapsed;
                return Ok(state.respond_fetched(&entry, fallback.as_deref(), &request, &policy, status));
            }
            JoinResult::FetchAlone => {
                cache.counters().misses.fetch_add(1, Ordering::Relaxed);
                return inner.call(request).await;
            }
        };
        // Looked up by the leader only, while the followers wait.
        let wait_budget = fetch.extensions().get().copied().unwrap_or_default();
        let mut guard = None;
        if fallback.is_none() || cache.is_shared() {
            let promotion = state.lookup_second_level(&query, wait_budget).await;
            guard = promotion.guard;
            if let Some(PromotedEntry { entry, epoch }) = promotion.found {
                let now_ms = cache.now_ms();
                match query.freshness(&entry, now_ms) {
                    Freshness::Fresh { left } => {
                        cache.counters().hits.fetch_add(1, Ordering::Relaxed);
                        let shared = Arc::clone(&entry);
                        leader.complete(FetchOutcome::Shareable {
                            entry: shared,
                            epoch,
                            fetched_at_ms: None,
                        });
                        let ttl = Some(left.as_secs() as i64);
                        let status = CacheStatus::Hit { ttl, detail: Some("second-level") };
                        return Ok(state.respond(&entry, &request, &policy, now_ms, &status));
                    }
                    Freshness::StaleWhileRevalidate { .. } | Freshness::StaleIfError { .. } => {
                        fallback = Some(entry);
                    }
                    Freshness::Expired => {}
                }
            }
        }
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(self.call_handler(fetch, leader, Some(sender), guard));
        let mut response = match receiver.await {
            Ok(FetchResult::Shareable { entry, stored }) => {
                let status = CacheStatus::Forward { reason, stored };
                return Ok(state.respond_fetched(&entry, fallback.as_deref(), &request, &policy, status));
            }
            Ok(FetchResult::Own(response)) => response,
            // The task panicked: the request still calls the handler once.
            Err(_) => inner.call(fetch_request(&request)).await?,
        };
        if let Some(fallback) = fallback.filter(|_| response.status().is_server_error()) {
            return Ok(state.respond_stale_if_error(&fallback, &request, &policy));
        }
        cache.counters().misses.fetch_add(1, Ordering::Relaxed);
        state.append_cache_status(&mut response, &CacheStatus::Forward { reason, stored: false });
        Ok(response)
    }

    /// Replaces a stale entry in the background: from the second level if another replica has refreshed it
    /// there, otherwise from the handler.
    pub(crate) async fn refresh<ReqBody, ResBody>(
        self,
        request: Request<ReqBody>,
        leader: Leader<u64, FetchOutcome>,
    ) where
        S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible>,
        ResBody: Body<Data = Bytes> + From<Bytes>,
    {
        let state = Arc::clone(&self.state);
        let cache = &state.cache;
        let mut guard = None;
        if cache.is_shared() {
            let (policy, directives) = (&self.policy, &RequestDirectives::default());
            let query = FetchQuery { key: &self.key, headers: request.headers(), policy, directives };
            let promotion = state.lookup_second_level(&query, WaitBudget::default()).await;
            let fresh = promotion.found.filter(|found| query.is_fresh(&found.entry, cache.now_ms()));
            if let Some(PromotedEntry { entry, epoch }) = fresh {
                leader.complete(FetchOutcome::Shareable { entry, epoch, fetched_at_ms: None });
                return;
            }
            guard = promotion.guard;
        }
        self.call_handler(request, leader, None, guard).await;
    }

    /// Calls the handler, stores the response if it is storable, and gives it to the followers and to
    /// `requester`.
    async fn call_handler<ReqBody, ResBody>(
        mut self,
        request: Request<ReqBody>,
        leader: Leader<u64, FetchOutcome>,
        requester: Option<oneshot::Sender<FetchResult<ResBody>>>,
        guard: Option<BoxFillGuard>,
    ) where
        S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible>,
        ResBody: Body<Data = Bytes> + From<Bytes>,
    {
        let cache = self.state.cache.clone();
        let epoch = cache.epoch();
        let fetch_started_at_ms = cache.now_ms();
        let headers = request.headers().clone();
        let extensions = request.extensions().clone();
        let client = (self.state.accessors.client)(&extensions);
        let Ok(response) = self.inner.call(request).await;
        let tags = tags(response.headers());
        let stored = storable(&self.control, client.has_credentials, response.status(), response.headers());
        let is_storable = stored.is_some();
        let shareable =
            stored.or_else(|| shared_failure(client.has_credentials, &response)).filter(|_| tags.is_some());
        let is_small = response.body().size_hint().exact().is_some_and(|size| size <= MAX_BODY);
        let Some(directives) = shareable.filter(|_| is_small) else {
            // Without a tenant the key is shared with anonymous clients, for whom the response to a client
            // with credentials is no evidence.
            if !client.has_credentials || !self.key.tenant.is_empty() {
                cache.mark_hit_for_pass(self.hash);
            }
            leader.complete(FetchOutcome::NotShareable);
            if let Some(requester) = requester {
                let _ = requester.send(FetchResult::Own(response));
            }
            return;
        };
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(BODY_TIMEOUT, body.collect()).await;
        let body = match body {
            Ok(Ok(body)) => Ok(Collected::to_bytes(body)),
            Ok(Err(_)) => Err(StatusCode::BAD_GATEWAY),
            Err(_) => Err(StatusCode::GATEWAY_TIMEOUT),
        };
        let body = match body {
            Ok(body) => body,
            Err(status) => {
                leader.complete(FetchOutcome::NotShareable);
                if let Some(requester) = requester {
                    let mut failure = Response::new(ResBody::from(Bytes::new()));
                    *failure.status_mut() = status;
                    let _ = requester.send(FetchResult::Own(failure));
                }
                return;
            }
        };
        let label = (self.state.accessors.label)(&extensions);
        let entry = Arc::new(Entry {
            vary: directives.vary.iter().map(|name| (name.clone(), combined_value(&headers, name))).collect(),
            tags: tags.unwrap_or_default(),
            status: parts.status,
            headers: reusable_headers(parts.headers, &body, is_storable),
            body,
            directives,
            fetch_started_at_ms,
            jitter: cache.jitter(self.hash, fetch_started_at_ms),
            label,
            key: self.key,
        });
        let stored = is_storable && cache.store(&entry, &headers, epoch, &self.policy, guard);
        let fetched_at_ms = Some(cache.now_ms());
        leader.complete(FetchOutcome::Shareable { entry: Arc::clone(&entry), epoch, fetched_at_ms });
        if let Some(requester) = requester {
            let _ = requester.send(FetchResult::Shareable { entry, stored });
        }
    }
}
