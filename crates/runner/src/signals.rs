//! SIGINT (Ctrl-C) and SIGTERM, as requests to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::RunError;

/// Handlers of both signals. Installed before a program says that it is ready: a signal without a
/// handler kills the process.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn install() -> Result<Self, RunError> {
        let install =
            |kind| signal(kind).map_err(|error| RunError::Failed(format!("cannot handle signals: {error}")));
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    /// Waits for a request to stop. Cancel-safe.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for Ctrl-C during a stop. A second SIGTERM does not count: supervisors repeat it.
    pub(crate) async fn abort(&mut self) {
        self.interrupt.recv().await;
    }
}
