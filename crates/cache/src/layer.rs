//! Middleware that puts a cache in front of a service.
//!
//! Serves a fresh hit within `call`, without waiting and without a task. Leaves everything else that needs a
//! fetch to [`crate::fetch`].

mod future;

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode,
    header::{IF_MATCH, IF_UNMODIFIED_SINCE, RANGE},
};
use http_body::Body;
use tower::{Layer, Service};

use self::future::InvalidateOnDrop;
pub use self::future::ResponseFuture;
use crate::{
    Accessors, Cache, CachePolicy, Key,
    accessors::LayerState,
    entry::normalize_target,
    fetch::{Fetch, fetch_request},
    freshness::Freshness,
    memory::MemoryLookup,
    response::{CacheStatus, ForwardReason},
    rfc9111::{CacheControl, RequestDirectives},
    single_flight::Role,
};

#[cfg(test)]
mod tests;

/// Layer that puts services behind one cache.
#[derive(Clone)]
pub struct HttpCacheLayer {
    state: Arc<LayerState>,
}

impl HttpCacheLayer {
    /// Creates a layer over `cache`, which is called `name` in `Cache-Status`.
    pub fn new(cache: Cache, name: impl Into<String>, accessors: Accessors) -> Self {
        Self { state: Arc::new(LayerState { cache, accessors, name: name.into() }) }
    }
}

impl<S> Layer<S> for HttpCacheLayer {
    type Service = HttpCache<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HttpCache { inner, state: Arc::clone(&self.state) }
    }
}

/// A service behind a cache.
#[derive(Clone)]
pub struct HttpCache<S> {
    inner: S,
    state: Arc<LayerState>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for HttpCache<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Body + Default + Send + 'static,
    ResBody: Body<Data = Bytes> + From<Bytes> + Send + 'static,
{
    type Response = Response<ResBody>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let state = &self.state;
        let method = request.method();
        if !method.is_safe() {
            // Invalidates also while caching is off, because entries stored before may be served again under
            // the next policy.
            let path = normalize_target(request.uri()).split('?').next().map(str::to_owned);
            let invalidate = InvalidateOnDrop::new(state.cache.clone(), path);
            return ResponseFuture::pass_through(self.inner.call(request), Some(invalidate));
        }
        let client = (state.accessors.client)(request.extensions());
        let private = client.has_credentials;
        let policy = (state.accessors.policy)(request.extensions()).filter(|policy| !policy.is_off());
        let Some(policy) = policy.filter(|_| method == Method::GET || method == Method::HEAD) else {
            return ResponseFuture::pass_through(self.inner.call(request), None).private(private);
        };
        // Only the handler can evaluate ranges and these preconditions.
        let handler_only = [RANGE, IF_MATCH, IF_UNMODIFIED_SINCE];
        if handler_only.iter().any(|name| request.headers().contains_key(name))
            || !request.body().is_end_stream()
        {
            return ResponseFuture::pass_through(self.inner.call(request), None).private(private);
        }
        let control = CacheControl::parse(request.headers());
        if control.no_store {
            // The response is for this request only, so no other request may wait for it.
            return ResponseFuture::pass_through(self.inner.call(request), None).private(private);
        }
        let policy = state.cache.effective_policy(policy);
        state.cache.apply_policy(&policy);
        let uri = normalize_target(request.uri());
        let hash = state.cache.hash(client.tenant, &uri);
        let directives = RequestDirectives::parse(request.headers(), &control);
        let now_ms = state.cache.now_ms();
        let (fallback, reason) =
            match state.cache.lookup(hash, client.tenant, &uri, request.headers(), now_ms) {
                MemoryLookup::Entry(entry) => match entry.freshness(&policy, &directives, now_ms) {
                    Freshness::Fresh { left } => {
                        state.cache.counters().hits.fetch_add(1, Ordering::Relaxed);
                        let status = CacheStatus::Hit { ttl: Some(left.as_secs() as i64), detail: None };
                        let response = state.respond(&entry, &request, &policy, now_ms, &status);
                        return ResponseFuture::ready(response);
                    }
                    Freshness::StaleWhileRevalidate { stale_for } => {
                        state.cache.counters().stale_hits.fetch_add(1, Ordering::Relaxed);
                        let ttl = -(stale_for.as_secs() as i64);
                        let status =
                            CacheStatus::Hit { ttl: Some(ttl), detail: Some("stale-while-revalidate") };
                        let response = state.respond(&entry, &request, &policy, now_ms, &status);
                        if let Role::Leader(leader) = state.cache.join_fetch(hash) {
                            let fetch = self.fetch(entry.key.clone(), hash, policy, control);
                            tokio::spawn(fetch.refresh(fetch_request(&request), leader));
                        }
                        return ResponseFuture::ready(response);
                    }
                    Freshness::StaleIfError { .. } => {
                        let reason =
                            if directives.reload { ForwardReason::Request } else { ForwardReason::Stale };
                        (Some(entry), reason)
                    }
                    Freshness::Expired => (None, ForwardReason::Stale),
                },
                MemoryLookup::HitForPass if method == Method::GET && !directives.only_if_cached => {
                    state.cache.counters().misses.fetch_add(1, Ordering::Relaxed);
                    return ResponseFuture::pass_through(self.inner.call(request), None).private(private);
                }
                MemoryLookup::HitForPass | MemoryLookup::Miss => (None, ForwardReason::UriMiss),
            };
        if directives.only_if_cached {
            let mut response = Response::new(ResBody::from(Bytes::new()));
            *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
            return ResponseFuture::ready(response);
        }
        if method == Method::HEAD {
            state.cache.counters().misses.fetch_add(1, Ordering::Relaxed);
            return ResponseFuture::pass_through(self.inner.call(request), None).private(private);
        }
        let key = Key { tenant: client.tenant.into(), uri: uri.as_ref().into() };
        let fetch = self.fetch(key, hash, policy, control);
        ResponseFuture::fetch(Box::pin(fetch.respond(request, directives, fallback, reason))).private(private)
    }
}

impl<S> HttpCache<S> {
    fn fetch(&self, key: Key, hash: u64, policy: CachePolicy, control: CacheControl) -> Fetch<S>
    where
        S: Clone,
    {
        Fetch { inner: self.inner.clone(), state: Arc::clone(&self.state), key, hash, policy, control }
    }
}
