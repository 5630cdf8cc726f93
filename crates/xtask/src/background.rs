//! Builds at idle priority while tests run.
//!
//! The programs of Go take many minutes to build, and tests wait for timers and servers much of the time:
//! at idle priority the build uses only what they leave.

use std::{
    path::PathBuf,
    process::Command,
    thread::{JoinHandle, spawn},
};

use crate::{cluster, collector};

/// A build that runs in the background.
pub(crate) struct Background<T>(JoinHandle<Result<T, String>>);

impl<T: Send + 'static> Background<T> {
    fn start(build: impl FnOnce() -> Result<T, String> + Send + 'static) -> Self {
        Self(spawn(build))
    }

    /// Waits for the end of the build.
    pub(crate) fn join(self) -> Result<T, String> {
        self.0.join().map_err(|_| "a build panicked".to_owned())?
    }
}

/// Builds the collector.
pub(crate) fn collector() -> Background<PathBuf> {
    Background::start(collector::build)
}

/// Builds the programs of the test cluster.
pub(crate) fn cluster_tools() -> Background<()> {
    Background::start(cluster::build_tools)
}

/// Returns a command for `program` that runs when the processors have nothing else to do.
pub(crate) fn idle(program: &str) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0", program]);
    command
}
