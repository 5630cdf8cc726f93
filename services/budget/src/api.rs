//! HTTP interface: routes, request and response types, and the mapping of domain errors.
//!
//! Holds every type with a JSON form. Handlers translate a request into values of the
//! [`model`](crate::model), run one use case of [`AppState`], and translate its result. Decisions are
//! left to [`app`](crate::app).

mod answer_events;
mod answers;
mod budget;
mod cohorts;
mod dollars;
mod error;
mod events;
mod names;
mod policy;
mod providers;
mod ranking;
mod response;
mod workflows;

use std::sync::Arc;

use phase6_chassis::{ComponentKind, Components, Role, require, require_in_fleet};
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::AppState;

/// Returns the routes of the service.
pub(crate) fn router(state: Arc<AppState>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(budget::today))
        .routes(routes!(budget::history))
        .routes(routes!(budget::export))
        .routes(require(Role::Reader, routes!(cohorts::can_afford)))
        .routes(routes!(cohorts::policy))
        .routes(routes!(workflows::record_workflow))
        .routes(routes!(cohorts::metrics))
        .routes(require(Role::Reader, routes!(ranking::rank_by_roi)))
        .routes(routes!(providers::status))
        .routes(routes!(policy::policy))
        .routes(require_in_fleet(Role::Admin, routes!(policy::change_policy, policy::replace_policy)))
        .routes(routes!(answers::burst))
        .routes(routes!(providers::costs))
        .routes(routes!(providers::recommend))
        .routes(require_in_fleet(Role::Reader, routes!(providers::resilience_status)))
        .routes(routes!(providers::learning_stats))
        .routes(routes!(events::realtime))
        .routes(routes!(events::performance_stream))
        .with_state(state)
}

/// Declares the topics of live events.
pub(crate) fn declare_topics(state: &Arc<AppState>) {
    state.declare_summaries(events::render);
}

/// Registers what `/api/v1/system/observability` shows of the service.
///
/// The components must not hold the state: it holds them, through its kit.
pub(crate) fn register_components(components: &Components, state: &AppState) {
    let deduplicator = state.deduplicator().clone();
    components.register(ComponentKind::Other, "deduplicator", move || {
        json!(answers::DeduplicationState::from(deduplicator.counts()))
    });
    let concurrency = state.concurrency().clone();
    components.register(ComponentKind::Other, "callConcurrency", move || {
        let load = concurrency.load();
        json!({"running": load.running, "waiting": load.waiting})
    });
}
