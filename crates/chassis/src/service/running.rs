//! A service that runs, and how it ends without losing a request.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use phase6_cache::Cache;
use phase6_otlp::Exporter;
use phase6_store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Definition;
use crate::{Enforcer, common::Common, server::Ending};

/// Pause between looks at how many are connected.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A running service.
pub struct Running {
    pub(super) definition: Definition,
    pub(super) address: SocketAddr,
    pub(super) common: Arc<Common>,
    pub(super) store: Option<Store>,
    pub(super) cache: Cache,
    pub(super) spans: Option<Arc<Exporter>>,
    pub(super) ending: Ending,
    /// Ends what the service does beside answering.
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Running {
    /// What it is.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its policy.
    pub fn enforcer(&self) -> &Enforcer {
        &self.common.enforcer
    }

    /// No longer ready from now on, and every answer asks its caller to connect anew, so that callers
    /// are elsewhere before it stops.
    pub fn announce_stop(&self) {
        self.common.ready.store(false, Ordering::Relaxed);
        self.ending.leaving.store(true, Ordering::Relaxed);
    }

    /// Until nobody is connected.
    pub async fn unused(&self) {
        while self.common.connections.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Stops: no longer ready, and accepts no more; requests under way are finished within `grace`.
    /// True if all were.
    pub async fn stop(self, grace: Duration) -> bool {
        self.announce_stop();
        self.ending.stop.cancel();
        self.stop.cancel();
        self.tasks.close();
        let drained = within(grace, self.tasks.wait()).await;
        self.ending.cut.cancel();
        within(Duration::from_secs(1), self.cache.close()).await;
        if let Some(spans) = &self.spans {
            within(Duration::from_secs(2), spans.close()).await;
        }
        if let Some(store) = &self.store {
            within(Duration::from_secs(2), store.close()).await;
        }
        drained
    }
}

async fn within(limit: Duration, work: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(limit, work).await.is_ok()
}
