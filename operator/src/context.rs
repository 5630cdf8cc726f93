//! State that the controllers and the HTTP endpoints share.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kube::Client;

use crate::{
    build::BuildOptions, election::Leadership, events::EventPublisher, metrics::Metrics, probe::PolicyProbe,
};

/// Default time after which a settled resource is reconciled again.
pub const RESYNC: Duration = Duration::from_mins(1);

/// Shared state of one operator process.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Options that apply to every resource.
    pub build_options: BuildOptions,
    /// Right to write, checked before each write.
    pub leadership: Leadership,
    /// Metrics.
    pub metrics: Metrics,
    /// Publisher of events.
    pub events: EventPublisher,
    /// Client for policy probes.
    pub probe: PolicyProbe,
    /// Time after which a settled resource is reconciled again, for changes that no watch delivers.
    pub resync: Duration,
    ready: AtomicBool,
}

impl Context {
    /// Creates a context with the default resync that is not ready yet. `pod_name` signs the events.
    pub fn new(
        client: Client,
        build_options: BuildOptions,
        leadership: Leadership,
        probe: PolicyProbe,
        pod_name: String,
    ) -> Self {
        Self {
            events: EventPublisher::new(client.clone(), pod_name),
            client,
            build_options,
            leadership,
            metrics: Metrics::default(),
            probe,
            resync: RESYNC,
            ready: AtomicBool::new(false),
        }
    }

    /// Marks the process as ready: its watches are synced.
    pub fn mark_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Returns true once the watches of a controller are synced.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}
