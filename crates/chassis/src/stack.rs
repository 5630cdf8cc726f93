//! What stands on every request, outermost first.

mod admit;
mod context;
mod innermost;

use std::sync::Arc;

use axum::{Router, response::IntoResponse};
use http::StatusCode;
use phase6_cache::{Cache, HttpCache, HttpCacheLayer};
use phase6_ratelimit::{Buckets, LocalBuckets, RateLimit, RateLimitLayer, Refusal, SharedBuckets};
use phase6_redis::Redis;
use phase6_telemetry::{RequestTelemetry, RequestTelemetryLayer, Telemetry};
use tower::ServiceBuilder;

pub(crate) use self::admit::{Load, too_large};
use self::{
    admit::{Admit, AdmitLayer},
    context::{ContextLayer, Contextual},
    innermost::Innermost,
};
use crate::{
    Access, ApiError, Enforcer,
    deadline::{Bounded, DeadlineLayer},
    envelope::{EnvelopeLayer, Enveloped},
};

pub use self::context::RequestContext;

/// The stack, as a type without boxes: a request that is refused or found in the cache allocates
/// nothing for the layers below.
pub(crate) type Stack = Contextual<RequestTelemetry<Enveloped<Admit<Bounded<Limited>>>>>;
type Limited = RateLimit<HttpCache<Innermost>, Buckets, Refuse>;

/// Writes the answer to a request over the limit.
type Refuse = fn(Refusal) -> axum::response::Response;

/// What the stack is made of.
pub(crate) struct Parts {
    pub(crate) name: &'static str,
    pub(crate) router: Router,
    pub(crate) enforcer: Enforcer,
    pub(crate) access: Access,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) limiter: RateLimitLayer<Buckets, Refuse>,
    pub(crate) cache: Cache,
    pub(crate) load: Arc<Load>,
}

/// The layers read top to bottom: the first one sees a request first and its answer last.
pub(crate) fn stack(parts: Parts) -> Stack {
    ServiceBuilder::new()
        // Takes the policy once, so that one revision judges the whole request, and works out who
        // is asking, which every layer below wants to know.
        .layer(ContextLayer::new(parts.enforcer, parts.access))
        // Counts and times everything below, refusals included.
        .layer(RequestTelemetryLayer::new(Arc::clone(&parts.telemetry), context::TRACING))
        // Gives errors of every layer below the request's trace id.
        .layer(EnvelopeLayer)
        // Refuses strangers, oversized heads and what is over capacity before they cost anything.
        .layer(AdmitLayer::new(parts.load))
        // Ends what one of our own services no longer waits for, and tells calls below what is left.
        .layer(DeadlineLayer)
        // Before the cache: a client that asks too much is refused even for what is cheap.
        .layer(parts.limiter)
        // Last before the handler: what it has needs no handler.
        .layer(HttpCacheLayer::new(parts.cache, parts.name, context::CACHING))
        // The routes, with a time limit, safe from panics.
        .service(Innermost::new(parts.router, &parts.telemetry))
}

/// The limiter of a service, with room for as many keys as `keys`, sharing with whoever has the same ones in
/// `redis`.
pub(crate) fn limiter(keys: usize, redis: Option<Redis>) -> (Buckets, RateLimitLayer<Buckets, Refuse>) {
    let shared = redis.map(|redis| SharedBuckets::new(redis, keys));
    let buckets = Buckets { local: LocalBuckets::with_capacity(keys), shared };
    let layer = RateLimitLayer::new(buckets.clone(), context::LIMITING, over_limit as Refuse);
    (buckets, layer)
}

fn over_limit(refusal: Refusal) -> axum::response::Response {
    let message = match refusal.retry_after_seconds {
        Some(seconds) => format!("too many requests; try again in {seconds} s"),
        None => "too many requests".to_owned(),
    };
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).into_response()
}
