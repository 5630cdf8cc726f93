//! Clock of a cache, in milliseconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use coarsetime::Instant;

/// Source of the current time, accurate to within one tick of the system (1 to 10 ms).
///
/// Time never steps back while the process runs, and roughly follows the calendar from one process to the
/// next, so that entries on disk keep their age.
pub(super) enum Clock {
    System { start_ms: u64, started: Instant },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    pub(super) fn system() -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::System { start_ms: since_epoch.as_millis() as u64, started: Instant::now() }
    }

    pub(super) fn now_ms(&self) -> u64 {
        match self {
            Self::System { start_ms, started } => start_ms + started.elapsed().as_millis(),
            Self::Manual(now_ms) => now_ms.load(Ordering::Relaxed),
        }
    }
}
