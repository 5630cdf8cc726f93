//! What the chassis itself counts: parts for the observability, series for Prometheus.

use std::sync::{Arc, atomic::Ordering};

use phase6_breaker::{Breaker, State};
use phase6_cache::Cache;
use phase6_otlp::{ExportCounts, Exporter};
use phase6_policy::Scope;
use phase6_ratelimit::{Buckets, DecisionCounts, SharedBuckets};
use phase6_telemetry::{SeriesKind, Telemetry};
use serde_json::{Value, json};

use crate::{Components, Condition, Enforcer, Kind, Upstream, common::Common};

/// Registers the limiter as a part and its figures as series.
pub(crate) fn register_limiter(
    common: &Components,
    telemetry: &Telemetry,
    enforcer: &Enforcer,
    buckets: Buckets,
    counts: impl Fn() -> DecisionCounts + Clone + Send + Sync + 'static,
) {
    let in_force = enforcer.clone();
    let counted = counts.clone();
    let Buckets { local, shared } = buckets;
    let told = shared.clone();
    common.register(Kind::RateLimiter, "requests", move || {
        let judgement = in_force.judgement();
        let Some(policy) = &judgement.document.policy.rate_limit else { return Value::Null };
        let DecisionCounts { admitted, refused, shadow_refused } = counted();
        let total = admitted + refused + shadow_refused;
        json!({
            "totalRequests": total,
            "allowedRequests": admitted,
            "deniedRequests": refused,
            "shadowRefusedRequests": shadow_refused,
            "allowRate": if total == 0 { 1.0 } else { admitted as f64 / total as f64 },
            "buckets": local.stats(),
            "shared": told.as_ref().map(SharedBuckets::stats),
            "mode": policy.mode,
            // Without shared state every limit is this replica's own.
            "scope": if in_force.is_shared() { policy.scope } else { Scope::PerReplica },
            "capacity": policy.capacity,
            "refillPerSecond": policy.refill_per_second,
        })
    });
    telemetry.metrics().register(
        SeriesKind::Counter,
        "phase6_ratelimit_requests_total",
        "Requests checked against a rate limit, by decision",
        &["decision"],
        {
            let counts = counts.clone();
            move || {
                let DecisionCounts { admitted, refused, .. } = counts();
                vec![(vec!["admitted".into()], admitted as f64), (vec!["refused".into()], refused as f64)]
            }
        },
    );
    telemetry.metrics().register(
        SeriesKind::Counter,
        "phase6_ratelimit_shadow_refused_total",
        "Requests over a rate limit that were admitted because the limit is in shadow mode",
        &[],
        move || vec![(vec![], counts().shadow_refused as f64)],
    );
    let Some(shared) = shared else { return };
    let told = shared.clone();
    telemetry.metrics().register(
        SeriesKind::Gauge,
        "phase6_ratelimit_shared",
        "1 if rate limits are shared through Redis, 0 if each replica decides alone",
        &[],
        move || vec![(vec![], f64::from(u8::from(!told.stats().local_fallback)))],
    );
    let counted = shared.clone();
    telemetry.metrics().register(
        SeriesKind::Counter,
        "phase6_ratelimit_backend_failure_total",
        "Rate-limit decisions made without Redis, by `onBackendFailure` mode",
        &["mode"],
        move || {
            let counts = counted.stats().fallback_decisions;
            [("LocalShare", counts.local_share), ("Allow", counts.allow), ("Deny", counts.deny)]
                .map(|(mode, count)| (vec![mode.to_owned()], count as f64))
                .into()
        },
    );
    telemetry.metrics().register(
        SeriesKind::Counter,
        "phase6_ratelimit_backend_calls_total",
        "Calls to Redis made by the rate limiter",
        &[],
        move || vec![(vec![], shared.stats().calls as f64)],
    );
}

/// Registers the cache as a part and its figures as series.
pub(crate) fn register_cache(
    components: &Components,
    telemetry: &Telemetry,
    enforcer: &Enforcer,
    cache: &Cache,
) {
    let (in_force, shown) = (enforcer.clone(), cache.clone());
    components.register(Kind::Cache, "responses", move || {
        if in_force.judgement().document.policy.cache.is_some() { json!(shown.stats()) } else { Value::Null }
    });
    let counted = cache.clone();
    telemetry.metrics().register(
        SeriesKind::Counter,
        "phase6_cache_requests_total",
        "Cacheable requests, by cache result",
        &["result"],
        move || {
            let stats = counted.stats();
            [
                ("hit", stats.hits),
                ("stale", stats.stale_hits),
                ("joined", stats.joined),
                ("miss", stats.misses),
            ]
            .map(|(result, count)| (vec![result.to_owned()], count as f64))
            .into()
        },
    );
    let told = cache.clone();
    telemetry.metrics().register(
        SeriesKind::Gauge,
        "phase6_cache_shared",
        "1 if this replica receives invalidations from the others, 0 if it does not and caches responses for 1 s",
        &[],
        move || {
            let level = told.stats().second_level.filter(|level| level.is_shared);
            level.map(|level| (vec![], f64::from(u8::from(level.in_sync)))).into_iter().collect()
        },
    );
    let counted = cache.clone();
    telemetry.metrics().register(
        SeriesKind::Gauge,
        "phase6_cache_entries",
        "Responses in the in-memory cache",
        &[],
        move || vec![(vec![], counted.stats().entries as f64)],
    );
}

/// Registers what becomes of spans as series.
pub(crate) fn register_tracer(telemetry: &Arc<Telemetry>, spans: Option<&Arc<Exporter>>) {
    let tracer = Arc::downgrade(telemetry);
    telemetry.metrics().register(
        SeriesKind::Gauge,
        "phase6_trace_sampling_rate",
        "Fraction of requests sampled, from 0 to 1; below `samplingRate` while `targetSpansPerSecond` limits it",
        &[],
        move || tracer.upgrade().map(|tracer| (vec![], tracer.sampling_rate())).into_iter().collect(),
    );
    let Some(spans) = spans else { return };
    let counted = Arc::clone(spans);
    telemetry.metrics().register(
        SeriesKind::Counter,
        "phase6_spans_exported_total",
        "Spans accepted by the OpenTelemetry collector",
        &[],
        move || vec![(vec![], counted.counts().exported as f64)],
    );
    let counted = Arc::clone(spans);
    telemetry.metrics().register(
        SeriesKind::Counter,
        "phase6_spans_dropped_total",
        "Spans dropped without reaching the OpenTelemetry collector, by reason",
        &["reason"],
        move || {
            let ExportCounts { queue_full, export_failed, .. } = counted.counts();
            vec![
                (vec!["queue_full".into()], queue_full as f64),
                (vec!["export_failed".into()], export_failed as f64),
            ]
        },
    );
}

/// Registers what the chassis itself counts as series.
pub(crate) fn register_series(common: &Arc<Common>) {
    let metrics = common.telemetry.metrics();
    let of = |read: fn(&Common) -> f64| {
        let common = Arc::downgrade(common);
        move || common.upgrade().map(|common| (vec![], read(&common))).into_iter().collect()
    };
    for (kind, name, help, read) in [
        (
            SeriesKind::Gauge,
            "phase6_policy_revision",
            "Revision of the active policy",
            (|common| common.enforcer.state().revision as f64) as fn(&Common) -> f64,
        ),
        (
            SeriesKind::Gauge,
            "phase6_policy_refused",
            "1 if the newest policy was rejected and the one before it is still active, else 0",
            |common| f64::from(u8::from(common.enforcer.state().error.is_some())),
        ),
        (SeriesKind::Gauge, "phase6_connections_open", "Open client connections", |common| {
            common.connections.open.load(Ordering::Relaxed) as f64
        }),
        (SeriesKind::Counter, "phase6_connections_accepted_total", "Client connections accepted", |common| {
            common.connections.accepted.load(Ordering::Relaxed) as f64
        }),
        (
            SeriesKind::Counter,
            "phase6_connections_refused_total",
            "Client connections closed on accept because a connection limit was reached",
            |common| common.connections.refused.load(Ordering::Relaxed) as f64,
        ),
        (
            SeriesKind::Counter,
            "phase6_connections_timed_out_total",
            "Client connections closed because a read or write exceeded its time limit",
            |common| common.connections.timed_out.load(Ordering::Relaxed) as f64,
        ),
        (
            SeriesKind::Counter,
            "phase6_requests_shed_total",
            "Requests rejected because the concurrency limit was reached",
            |common| common.load.shed() as f64,
        ),
    ] {
        metrics.register(kind, name, help, &[], of(read));
    }
    register_peers(common);
}

/// Registers what is known of peers and providers as series. Addresses of endpoints come and go, and are no
/// labels: each of them would be a series for ever.
fn register_peers(common: &Arc<Common>) {
    let metrics = common.telemetry.metrics();
    let weak = Arc::downgrade(common);
    metrics.register(
        SeriesKind::Gauge,
        "phase6_circuit_breaker_open",
        "Fraction of the circuit breakers of a peer's endpoints or of a provider that are open, from 0 to 1; a \
         half-open breaker counts as 0.5",
        &["peer"],
        move || {
            let breakers = weak.upgrade().map(|common| common.components.breakers()).unwrap_or_default();
            let open = |breaker: &Breaker| match breaker.snapshot().status {
                State::Open => 1.0,
                State::HalfOpen => 0.5,
                State::Closed => 0.0,
            };
            let share =
                |all: Vec<Breaker>| all.iter().map(open).sum::<f64>() / all.len().max(1) as f64;
            breakers.into_iter().map(|(name, all)| (vec![name], share(all))).collect()
        },
    );
    let weak = Arc::downgrade(common);
    metrics.register(
        SeriesKind::Gauge,
        "phase6_peer_endpoints",
        "Endpoints of a peer, by health according to their readiness probes",
        &["peer", "health"],
        move || {
            let peers = weak.upgrade().map(|common| common.components.peers()).unwrap_or_default();
            let counted = |peer: &Upstream| {
                let (name, endpoints) = (peer.name(), peer.snapshot());
                Condition::ALL.map(|health| {
                    let count = endpoints.iter().filter(|endpoint| endpoint.health == health).count();
                    (vec![name.to_owned(), health.as_str().to_owned()], count as f64)
                })
            };
            peers.iter().flat_map(counted).collect()
        },
    );
}
