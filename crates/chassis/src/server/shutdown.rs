//! The steps in which a server ends.

use std::sync::{Arc, atomic::AtomicBool};

use tokio_util::sync::CancellationToken;

/// Signals from a service to all of its connections. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Shutdown {
    /// First step: every response asks its client to reconnect, which then reaches another replica. Idle
    /// connections stay open: closing one could lose a request that is being sent on it.
    pub(crate) drain: Arc<AtomicBool>,
    /// Second step: no connection is accepted, idle ones are closed, requests in flight are finished.
    pub(crate) stop: CancellationToken,
    /// Last step: requests in flight are aborted.
    pub(crate) abort: CancellationToken,
}
