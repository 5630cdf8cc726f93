//! A running service, and its shutdown without a lost request.

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
use crate::{Enforcer, operations::ServiceState, server::Shutdown};

/// Pause between two checks of the number of open connections.
const CONNECTION_POLL: Duration = Duration::from_millis(100);
/// Longest time to close the cache.
const CLOSE_CACHE: Duration = Duration::from_secs(1);
/// Longest time to export the last spans.
const CLOSE_EXPORTER: Duration = Duration::from_secs(2);
/// Longest time to close the database.
const CLOSE_STORE: Duration = Duration::from_secs(2);

/// A running service.
pub struct Running {
    pub(super) definition: Definition,
    pub(super) address: SocketAddr,
    pub(super) state: Arc<ServiceState>,
    pub(super) store: Option<Store>,
    pub(super) cache: Cache,
    pub(super) exporter: Option<Arc<Exporter>>,
    /// Steps of the shutdown for connections.
    pub(super) shutdown: Shutdown,
    /// Ends the background tasks of the service.
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Running {
    /// Definition of the service.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Address on which the service listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holder of the active policy.
    pub fn enforcer(&self) -> &Enforcer {
        &self.state.enforcer
    }

    /// Begins to drain connections: the service is no longer ready, and every response asks its client to
    /// reconnect, so that clients have left before the shutdown.
    pub fn drain(&self) {
        self.state.is_ready.store(false, Ordering::Relaxed);
        self.shutdown.drain.store(true, Ordering::Relaxed);
    }

    /// Waits until no connection is open.
    pub async fn wait_until_unused(&self) {
        while self.state.connections.open() > 0 {
            tokio::time::sleep(CONNECTION_POLL).await;
        }
    }

    /// Shuts down: accepts no more connections, finishes the requests in flight within `grace`, and aborts the
    /// rest. Returns true if all were finished.
    pub async fn shutdown(self, grace: Duration) -> bool {
        self.drain();
        self.shutdown.stop.cancel();
        self.stop.cancel();
        self.tasks.close();
        let is_complete = is_done_within(grace, self.tasks.wait()).await;
        self.shutdown.abort.cancel();
        is_done_within(CLOSE_CACHE, self.cache.close()).await;
        if let Some(exporter) = &self.exporter {
            is_done_within(CLOSE_EXPORTER, exporter.close()).await;
        }
        if let Some(store) = &self.store {
            is_done_within(CLOSE_STORE, store.close()).await;
        }
        is_complete
    }
}

async fn is_done_within(limit: Duration, work: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(limit, work).await.is_ok()
}
