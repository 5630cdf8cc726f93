//! Ctrl-C and SIGTERM, as requests to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ending::Ending;

/// Listens for them. Made before a program says that it runs: a signal that nobody listens for
/// kills.
pub(crate) struct Stopping {
    interrupt: Signal,
    terminate: Signal,
}

impl Stopping {
    pub(crate) fn listen() -> Result<Self, Ending> {
        let listen = |kind| {
            signal(kind).map_err(|error| Ending::Findings(format!("cannot listen for signals: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Until the program is asked to stop.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Until the person presses Ctrl-C (once more). A second SIGTERM does not hurry: supervisors
    /// repeat it.
    pub(crate) async fn insisted(&mut self) {
        self.interrupt.recv().await;
    }
}
