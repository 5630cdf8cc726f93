//! Live summaries: each tenant that somebody watches has one task, which publishes its summary for all of its
//! watchers: every five seconds, and soon after a change.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use phase6_chassis::{
    events::{Event, Hub, Snapshot, Source, TooManyWatchers, Watcher, Watchers},
    identity::Name,
};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{AppState, Summary};

/// Topic of the summaries.
pub const TOPIC: &str = "providers";
/// Kind of the events.
const KIND: &str = "summary";
/// Longest time between two summaries.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time for which further changes are awaited.
const SETTLING: Duration = Duration::from_millis(100);

/// Number of changes that a publisher may be behind.
const MAX_CHANGES: usize = 64;

/// Signal that something has changed, for one tenant or for all.
pub(super) struct Changes(broadcast::Sender<Option<Name>>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(MAX_CHANGES))
    }
}

impl Changes {
    /// Has the summaries of a tenant, or of all, published soon.
    pub(super) fn notify(&self, tenant: Option<&Name>) {
        // Fails if nobody watches.
        let _ = self.0.send(tenant.cloned());
    }
}

/// Waits for a change that concerns a tenant.
async fn next_change(changes: &mut broadcast::Receiver<Option<Name>>, tenant: &Name) {
    loop {
        match changes.recv().await {
            Ok(Some(changed)) if changed != *tenant => {}
            // One of the changes that were missed may concern the tenant.
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Source of the summaries.
struct Summaries {
    /// Not a strong reference: the state holds the hub, and the hub this source.
    state: Weak<AppState>,
    render: fn(Summary) -> String,
    watchers: Watchers,
}

impl AppState {
    /// Declares the topic of the summaries. `render` writes a summary as JSON.
    pub(crate) fn declare_summaries(self: &Arc<Self>, render: fn(Summary) -> String) {
        let source = Summaries { state: Arc::downgrade(self), render, watchers: Watchers::default() };
        self.kit.events.declare(Arc::new(source));
    }
}

impl Source for Summaries {
    fn topic(&self) -> &'static str {
        TOPIC
    }

    fn snapshot(&self, tenant: &Name) -> BoxFuture<'static, Snapshot> {
        let (state, tenant, render) = (self.state.upgrade(), tenant.clone(), self.render);
        Box::pin(async move {
            match state {
                Some(state) => vec![(KIND.to_owned(), render(state.summary(&tenant).await))],
                None => vec![],
            }
        })
    }

    fn watch(&self, tenant: &Name, _: &Hub) -> Result<Watcher, TooManyWatchers> {
        let (watcher, started) = self.watchers.admit(tenant)?;
        if let (Some(stop), Some(state)) = (started, self.state.upgrade()) {
            let publishing = publish_until_stopped(Arc::clone(&state), tenant.clone(), stop, self.render);
            state.kit.tasks.spawn(publishing);
        }
        Ok(watcher)
    }
}

async fn publish_until_stopped(
    state: Arc<AppState>,
    tenant: Name,
    stop: CancellationToken,
    render: fn(Summary) -> String,
) {
    let mut changes = state.changes.0.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = state.kit.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
            () = next_change(&mut changes, &tenant) => tokio::time::sleep(SETTLING).await,
        }
        // Changes up to here are in this summary.
        changes = changes.resubscribe();
        let data = render(state.summary(&tenant).await);
        // Another task may publish for the tenant by now, and newer summaries.
        if stop.is_cancelled() {
            return;
        }
        state.kit.events.publish(&Event { tenant: Some(&tenant), topic: TOPIC, kind: KIND, data: &data });
    }
}
