//! The endpoints of budget.

pub(crate) mod budget;
pub(crate) mod cohorts;
pub(crate) mod events;
pub(crate) mod providers;

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, HeaderName};
use jiff::Timestamp;
use phase6_chassis::{Kit, Reply};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::Broker,
    cohort::Cohorts,
    ledger::{Ledger, until_tomorrow},
    policy::Policies,
    price::PriceList,
    provider::Directory,
};

/// What the endpoints work with.
pub(crate) struct Shelf {
    pub(crate) kit: Kit,
    pub(crate) broker: Broker,
    pub(crate) cohorts: Cohorts,
    pub(crate) directory: Directory,
    pub(crate) ledger: Ledger,
    pub(crate) policies: Policies,
    pub(crate) prices: PriceList,
    pub(crate) watchers: events::Watchers,
}

pub(crate) fn all(shelf: Shelf) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(budget::today))
        .routes(routes!(budget::history))
        .routes(routes!(budget::can_afford))
        .routes(routes!(budget::rank_by_roi))
        .routes(routes!(budget::export))
        .routes(routes!(cohorts::policy))
        .routes(routes!(cohorts::record_workflow))
        .routes(routes!(cohorts::metrics))
        .routes(routes!(providers::status))
        .routes(routes!(providers::policy, providers::change_policy))
        .routes(routes!(providers::burst))
        .routes(routes!(providers::costs))
        .routes(routes!(providers::recommend))
        .routes(routes!(providers::resilience_status))
        .routes(routes!(providers::learning_stats))
        .routes(routes!(events::realtime))
        .routes(routes!(events::performance_stream))
        .with_state(Arc::new(shelf))
}

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// For how many seconds an answer is good that nobody here takes back when it changes: another
/// replica, a provider or the clock changes it.
const BRIEFLY: u64 = 5;

/// An answer that is the same for everybody and may be kept until one of `tags` changes.
fn shared<T: Serialize>(tags: &str, payload: T) -> Response {
    ([(CACHE_CONTROL, "public"), (SURROGATE_KEY, tags)], Reply::new(payload)).into_response()
}

/// The same for an answer that also changes by itself. None outlives its UTC day.
fn briefly_shared<T: Serialize>(tags: &str, payload: T) -> Response {
    let seconds = until_tomorrow(Timestamp::now()).as_secs().min(BRIEFLY);
    let control = format!("public, max-age={seconds}");
    ([(CACHE_CONTROL, control.as_str()), (SURROGATE_KEY, tags)], Reply::new(payload)).into_response()
}

/// An answer of this moment.
fn momentary<T: Serialize>(payload: T) -> Response {
    ([(CACHE_CONTROL, "no-store")], Reply::new(payload)).into_response()
}
