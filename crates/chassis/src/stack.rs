//! The layers around the routes of every service, outermost first.
//!
//! The stack is one type without boxes: a request that a layer rejects, or that is served from the cache,
//! allocates nothing for the layers below. Layers reject in `call`; none waits in `poll_ready`.

mod admit;
mod authorize;
mod cache;
mod context;
mod map_response;
mod rate_limit;
mod router;
mod telemetry;

use std::sync::Arc;

use axum::Router;
use phase6_cache::{Cache, HttpCache, HttpCacheLayer};
use phase6_telemetry::{RequestTelemetry, RequestTelemetryLayer, Telemetry};
use tower::ServiceBuilder;

pub use self::context::RequestContext;
pub(crate) use self::{
    admit::ConcurrencyLimit,
    cache::register as register_cache,
    context::is_public,
    map_response::{MapResponse, ResponseMap},
    rate_limit::RateLimiter,
    telemetry::register as register_telemetry,
};
use self::{
    admit::{Admit, AdmitLayer},
    context::{Context, ContextLayer},
    rate_limit::RateLimit,
    router::GuardedRouter,
};
use crate::{
    Access, Enforcer,
    request::{Deadline, DeadlineLayer, Envelope, EnvelopeLayer, Permissions},
    server::BodyLimits,
};

/// The whole stack.
pub(crate) type Stack =
    Context<RequestTelemetry<Envelope<Admit<Deadline<RateLimit<HttpCache<GuardedRouter>>>>>>>;

/// The parts of a stack.
pub(crate) struct StackParts {
    pub(crate) name: &'static str,
    pub(crate) router: Router,
    pub(crate) permissions: Permissions,
    pub(crate) enforcer: Enforcer,
    pub(crate) access: Access,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) limiter: RateLimiter,
    pub(crate) cache: Cache,
    pub(crate) concurrency: Arc<ConcurrencyLimit>,
    pub(crate) body: BodyLimits,
}

/// Assembles the stack. Requests pass the layers from top to bottom, responses from bottom to top.
pub(crate) fn assemble(parts: StackParts) -> Stack {
    ServiceBuilder::new()
        // Takes the policy once, so that one revision applies to the whole request, and identifies the
        // caller, whom every layer below asks for.
        .layer(ContextLayer::new(parts.enforcer, parts.access))
        // Counts and times everything below, rejected requests included.
        .layer(RequestTelemetryLayer::new(Arc::clone(&parts.telemetry), telemetry::ACCESSORS))
        // Appends the request's trace ID to the errors of every layer below.
        .layer(EnvelopeLayer)
        // Rejects unauthenticated, oversized and excess requests before they cost anything.
        .layer(AdmitLayer::new(parts.concurrency, parts.body))
        // Ends requests whose caller no longer waits, and passes the remaining time on to calls below.
        .layer(DeadlineLayer)
        // Above the cache: a client over its limit is rejected even if a response is cached.
        .layer(parts.limiter.layer)
        // Right above the routes: a cached response needs no handler.
        .layer(HttpCacheLayer::new(parts.cache, parts.name, cache::ACCESSORS))
        // The routes, with a check of the role, a time limit, and with panics caught.
        .service(GuardedRouter::new(parts.router, parts.permissions, &parts.telemetry))
}
