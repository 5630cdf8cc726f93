//! The rate limiter of a service: its construction, its access to a request, its response to requests over
//! the limit, and its snapshot and metric series.

use std::net::{IpAddr, Ipv4Addr};

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use phase6_policy::Scope;
use phase6_ratelimit::{
    Buckets, Client, DecisionCounts, LocalBuckets, Owner, RateLimitLayer, Refusal, RequestAccessors,
    SharedBuckets,
};
use phase6_redis::Redis;
use serde_json::{Value, json};

use super::context::{context, governed};
use crate::{
    ApiError, Enforcer,
    operations::{ComponentKind, Registrar},
};

/// Number of rate-limit keys that a service remembers.
const MAX_KEYS: usize = 1 << 16;

/// The rate-limit layer around `S`.
pub(super) type RateLimit<S> = phase6_ratelimit::RateLimit<S, Buckets, Respond>;
/// Creates the response to a request over the limit.
type Respond = fn(Refusal) -> Response;

/// Access of the rate-limit layer to the extensions of a request.
const ACCESSORS: RequestAccessors = RequestAccessors {
    limits: |extensions| governed(extensions)?.policy.limits.as_ref(),
    client: |extensions| match context(extensions) {
        Some(context) => {
            // Callers without credentials are told apart by their addresses.
            let principal = context.caller.principal().filter(|principal| !principal.is_anonymous());
            let owner = principal.map(|principal| Owner {
                tenant: principal.tenant.as_str(),
                subject: principal.subject.as_str(),
            });
            Client { owner, address: context.caller.address }
        }
        None => Client { owner: None, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) },
    },
};

/// The rate-limit layer of a service and the buckets behind it.
pub(crate) struct RateLimiter {
    pub(super) layer: RateLimitLayer<Buckets, Respond>,
    buckets: Buckets,
}

impl RateLimiter {
    /// Creates a limiter whose limits are shared by all replicas with the same prefix in `redis`.
    pub(crate) fn new(redis: Option<Redis>) -> Self {
        let shared = redis.map(|redis| SharedBuckets::new(redis, MAX_KEYS));
        let buckets = Buckets { local: LocalBuckets::with_capacity(MAX_KEYS), shared };
        Self { layer: RateLimitLayer::new(buckets.clone(), ACCESSORS, over_limit as Respond), buckets }
    }

    /// Registers the snapshot and the metric series of the limiter.
    pub(crate) fn register(&self, registrar: &Registrar<'_>, enforcer: &Enforcer) {
        self.register_snapshot(registrar, enforcer.clone());
        let layer = self.layer.clone();
        registrar.counters(
            "phase6_ratelimit_requests_total",
            "Requests checked against a rate limit, by decision",
            &["decision"],
            move || {
                let DecisionCounts { admitted, refused, .. } = layer.counts();
                [("admitted", admitted), ("refused", refused)]
                    .map(|(decision, count)| (vec![decision.to_owned()], count as f64))
                    .into()
            },
        );
        let layer = self.layer.clone();
        registrar.counter(
            "phase6_ratelimit_shadow_refused_total",
            "Requests over a rate limit that were admitted because the limit is in shadow mode",
            move || layer.counts().shadow_refused as f64,
        );
        if let Some(shared) = &self.buckets.shared {
            register_shared(registrar, shared);
        }
    }

    fn register_snapshot(&self, registrar: &Registrar<'_>, enforcer: Enforcer) {
        let layer = self.layer.clone();
        let Buckets { local, shared } = self.buckets.clone();
        registrar.snapshot(ComponentKind::RateLimiter, "requests", move || {
            let active = enforcer.active_policy();
            let Some(policy) = &active.document.policy.rate_limit else { return Value::Null };
            let DecisionCounts { admitted, refused, shadow_refused } = layer.counts();
            let total = admitted + refused + shadow_refused;
            json!({
                "totalRequests": total,
                "allowedRequests": admitted,
                "deniedRequests": refused,
                "shadowRefusedRequests": shadow_refused,
                "allowRate": if total == 0 { 1.0 } else { admitted as f64 / total as f64 },
                "buckets": local.stats(),
                "shared": shared.as_ref().map(SharedBuckets::stats),
                "mode": policy.mode,
                // Without shared state each replica enforces every limit by itself.
                "scope": if enforcer.is_shared() { policy.scope } else { Scope::PerReplica },
                "capacity": policy.capacity,
                "refillPerSecond": policy.refill_per_second,
            })
        });
    }
}

fn register_shared(registrar: &Registrar<'_>, shared: &SharedBuckets) {
    let stats = shared.clone();
    registrar.gauge(
        "phase6_ratelimit_shared",
        "1 if rate limits are shared through Redis, 0 while the local fallback decides",
        move || f64::from(u8::from(!stats.stats().local_fallback)),
    );
    let stats = shared.clone();
    registrar.counters(
        "phase6_ratelimit_backend_failure_total",
        "Rate-limit decisions made without Redis, by `onBackendFailure` mode",
        &["mode"],
        move || {
            let counts = stats.stats().fallback_decisions;
            [("LocalShare", counts.local_share), ("Allow", counts.allow), ("Deny", counts.deny)]
                .map(|(mode, count)| (vec![mode.to_owned()], count as f64))
                .into()
        },
    );
    let stats = shared.clone();
    registrar.counter(
        "phase6_ratelimit_backend_calls_total",
        "Calls to Redis made by the rate limiter",
        move || stats.stats().calls as f64,
    );
}

fn over_limit(refusal: Refusal) -> Response {
    let message = match refusal.retry_after_seconds {
        Some(seconds) => format!("too many requests; try again in {seconds} s"),
        None => "too many requests".to_owned(),
    };
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).into_response()
}
