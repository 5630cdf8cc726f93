//! Access of the cache layer to a request, and the snapshot and metric series of the cache.

use std::sync::Arc;

use phase6_cache::{Accessors, Cache, Client};
use phase6_telemetry::Exchange;
use serde_json::{Value, json};

use super::context::{context, governed};
use crate::{
    Enforcer,
    operations::{ComponentKind, Registrar},
};

/// Access of the cache layer to the extensions of a request.
pub(super) const ACCESSORS: Accessors = Accessors {
    policy: |extensions| governed(extensions)?.policy.cache.as_ref(),
    client: |extensions| match context(extensions) {
        Some(context) => Client {
            tenant: context.caller.principal().map_or("", |principal| principal.tenant.as_str()),
            has_credentials: context.caller.has_credentials,
        },
        None => Client { tenant: "", has_credentials: true },
    },
    // The template of the route, not its id: other replicas number their routes differently.
    label: |extensions| match extensions.get::<Arc<Exchange>>() {
        Some(exchange) => exchange.telemetry().metrics().template(exchange.route()).into(),
        None => Box::default(),
    },
    set_label: |extensions, label| {
        if let Some(exchange) = extensions.get::<Arc<Exchange>>() {
            exchange.set_route(exchange.telemetry().metrics().route(label));
        }
    },
};

/// Registers the snapshot and the metric series of the cache.
pub(crate) fn register(registrar: &Registrar<'_>, enforcer: &Enforcer, cache: &Cache) {
    let (enforcer, stats) = (enforcer.clone(), cache.clone());
    registrar.snapshot(ComponentKind::Cache, "responses", move || match &enforcer.active_policy().cache {
        Some(_) => json!(stats.stats()),
        None => Value::Null,
    });
    let stats = cache.clone();
    registrar.counters(
        "phase6_cache_requests_total",
        "Cacheable requests, by cache result",
        &["result"],
        move || {
            let stats = stats.stats();
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
    let stats = cache.clone();
    registrar.gauges(
        "phase6_cache_shared",
        "1 if this replica receives invalidations from the others, 0 if it does not and caches responses for 1 s",
        &[],
        move || {
            let level = stats.stats().second_level.filter(|level| level.is_shared);
            level.map(|level| (vec![], f64::from(u8::from(level.in_sync)))).into_iter().collect()
        },
    );
    let stats = cache.clone();
    registrar.gauge("phase6_cache_entries", "Responses in the in-memory cache", move || {
        stats.stats().entries as f64
    });
}
