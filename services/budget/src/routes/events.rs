//! What changes, as it changes.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{KeepAlive, Sse},
    },
};
use futures_util::stream;
use jiff::Timestamp;
use phase6_chassis::{ApiError, ErrorBody};
use serde_json::{Value, json};

use super::{Shelf, momentary, providers::event};
use crate::provider::ProviderId;

/// How often watchers are told.
const EVERY: Duration = Duration::from_secs(5);
/// Most watchers of one replica.
const MOST_WATCHERS: usize = 64;

/// Counts those who watch.
#[derive(Clone, Default)]
pub(crate) struct Watchers(Arc<AtomicUsize>);

struct Watching(Arc<AtomicUsize>);

impl Watchers {
    fn join(&self) -> Option<Watching> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let watching = Watching(Arc::clone(&self.0));
        (before < MOST_WATCHERS).then_some(watching)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Providers, budget, prices and policy of this moment.
async fn summary(shelf: &Shelf) -> Value {
    let budget = shelf.ledger.day(Timestamp::now()).await;
    let costs: serde_json::Map<String, Value> = ProviderId::ALL
        .iter()
        .map(|id| (id.as_str().to_owned(), json!(shelf.prices.of(*id).per_call)))
        .collect();
    json!({
        "timestamp": Timestamp::now(),
        "providers": shelf.directory.status().await,
        "budget": budget.as_ref().ok(),
        "error": budget.as_ref().err().map(|_| "the database cannot be reached now"),
        "costs": costs,
        "policy": shelf.policies.get(),
    })
}

/// Providers, budget, prices and policy, every five seconds, as server-sent events called
/// `summary`. Ends when the service stops.
#[utoipa::path(get, path = "/api/v1/providers/realtime", tag = "providers",
    responses((status = 200, content_type = "text/event-stream", body = str), (status = 503, body = ErrorBody)))]
pub(crate) async fn realtime(State(shelf): State<Arc<Shelf>>) -> Result<Response, ApiError> {
    let Some(watching) = shelf.watchers.join() else {
        let message = format!("{MOST_WATCHERS} watchers are connected already");
        return Err(ApiError::unavailable("too_many_watchers", message, 5));
    };
    let events = stream::unfold((shelf, watching, true), |(shelf, watching, first)| async move {
        if !first {
            tokio::select! {
                () = shelf.kit.stop.cancelled() => return None,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        let told = event("summary", &summary(&shelf).await);
        Some((Ok::<_, Infallible>(told), (shelf, watching, false)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// The same, once.
#[utoipa::path(get, path = "/api/v1/providers/performance-stream", tag = "providers", responses((status = 200, body = Object)))]
pub(crate) async fn performance_stream(State(shelf): State<Arc<Shelf>>) -> Response {
    momentary(summary(&shelf).await)
}
