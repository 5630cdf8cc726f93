//! Live summaries: each tenant that somebody watches has one task, which publishes its summary for all of its
//! watchers: every five seconds, and soon after a change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use phase6_chassis::{
    events::{Event, EventId, Filter, Snapshot, Subscription},
    identity::Name,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{AppState, Summary};

/// Topic of the summaries.
const TOPIC: &str = "providers";
/// Kind of the events.
const KIND: &str = "summary";
/// Longest time between two summaries.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time for which further changes are awaited.
const SETTLING: Duration = Duration::from_millis(100);
/// Maximum number of watchers of one replica.
const MAX_WATCHERS: usize = 1024;
/// Maximum number of watchers of one tenant.
const MAX_WATCHERS_OF_TENANT: usize = 256;

/// Watchers, and the signal that something has changed.
pub(super) struct LiveSummaries {
    watchers: Arc<Mutex<Watchers>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Watchers {
    total: usize,
    tenants: HashMap<Name, WatchedTenant>,
}

struct WatchedTenant {
    watchers: usize,
    /// Ends the task that publishes.
    stop: CancellationToken,
}

/// One watcher; leaves when dropped.
pub struct Watcher {
    tenant: Name,
    watchers: Arc<Mutex<Watchers>>,
}

/// Refusal of a watcher because too many are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} watchers are already connected")]
pub struct TooManyWatchers {
    limit: usize,
}

impl Default for LiveSummaries {
    fn default() -> Self {
        Self { watchers: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl LiveSummaries {
    /// Has the summaries published soon.
    pub(super) fn notify(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Admits a watcher. Returns the token of the task that is to publish, if the tenant was not watched before.
    fn admit(&self, tenant: &Name) -> Result<(Watcher, Option<CancellationToken>), TooManyWatchers> {
        let mut watchers = self.watchers.lock();
        let of_tenant = watchers.tenants.get(tenant).map_or(0, |tenant| tenant.watchers);
        for (count, limit) in [(watchers.total, MAX_WATCHERS), (of_tenant, MAX_WATCHERS_OF_TENANT)] {
            if count >= limit {
                return Err(TooManyWatchers { limit });
            }
        }
        watchers.total += 1;
        let watched = watchers
            .tenants
            .entry(tenant.clone())
            .or_insert_with(|| WatchedTenant { watchers: 0, stop: CancellationToken::new() });
        watched.watchers += 1;
        let started = (watched.watchers == 1).then(|| watched.stop.clone());
        Ok((Watcher { tenant: tenant.clone(), watchers: Arc::clone(&self.watchers) }, started))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watchers = self.watchers.lock();
        watchers.total -= 1;
        let Some(watched) = watchers.tenants.get_mut(&self.tenant) else { return };
        watched.watchers -= 1;
        if watched.watchers == 0 {
            watched.stop.cancel();
            watchers.tenants.remove(&self.tenant);
        }
    }
}

impl AppState {
    /// Subscribes to the summaries of a tenant, after the event `last` if it is known, else with the current one
    /// first. `render` writes a summary as JSON.
    ///
    /// # Errors
    ///
    /// Too many watchers are connected.
    pub fn watch(
        self: &Arc<Self>,
        tenant: &Name,
        last: Option<EventId>,
        render: fn(Summary) -> String,
    ) -> Result<(Subscription, Watcher), TooManyWatchers> {
        let (watcher, started) = self.live.admit(tenant)?;
        if let Some(stop) = started {
            self.kit.tasks.spawn(publish_until_stopped(Arc::clone(self), tenant.clone(), stop, render));
        }
        let snapshot: Snapshot = {
            let (state, tenant) = (Arc::clone(self), tenant.clone());
            Arc::new(move || {
                let (state, tenant) = (Arc::clone(&state), tenant.clone());
                Box::pin(async move { Some((KIND, render(state.summary(&tenant).await))) })
            })
        };
        let filter = Filter { tenant: tenant.clone(), topics: vec![TOPIC] };
        Ok((self.kit.events.subscribe(filter, last, snapshot), watcher))
    }
}

async fn publish_until_stopped(
    state: Arc<AppState>,
    tenant: Name,
    stop: CancellationToken,
    render: fn(Summary) -> String,
) {
    let mut changes = state.live.changes.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = state.kit.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
            _ = changes.changed() => tokio::time::sleep(SETTLING).await,
        }
        changes.borrow_and_update();
        let data = render(state.summary(&tenant).await);
        state.kit.events.publish(&Event { tenant: Some(&tenant), topic: TOPIC, kind: KIND, data: &data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(
        live: &LiveSummaries,
        tenant: &str,
    ) -> Result<(Watcher, Option<CancellationToken>), TooManyWatchers> {
        live.admit(&tenant.parse().unwrap())
    }

    #[test]
    fn a_watcher_that_leaves_makes_room_for_another_one() {
        let live = LiveSummaries::default();
        let mut watchers: Vec<_> =
            (0..MAX_WATCHERS_OF_TENANT).map(|_| admit(&live, "acme").unwrap()).collect();
        for _ in 0..2 {
            assert_eq!(admit(&live, "acme").err(), Some(TooManyWatchers { limit: MAX_WATCHERS_OF_TENANT }));
        }
        assert!(admit(&live, "other").is_ok(), "each tenant has a share");
        watchers.pop();
        assert!(admit(&live, "acme").is_ok());
    }

    #[test]
    fn one_task_publishes_while_a_tenant_is_watched() {
        let live = LiveSummaries::default();
        let (first, stop) = admit(&live, "acme").unwrap();
        let (second, none) = admit(&live, "acme").unwrap();
        let stop = stop.unwrap();
        assert!(none.is_none(), "the task is running");
        drop(first);
        assert!(!stop.is_cancelled());
        drop(second);
        assert!(stop.is_cancelled());
        assert!(admit(&live, "acme").unwrap().1.is_some(), "another task");
        assert_eq!(live.watchers.lock().total, 0);
    }
}
