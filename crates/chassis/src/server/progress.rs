//! Progress of a connection: its phase, and since when it has lasted.
//!
//! ```text
//!   Idle --first byte--> Head --head complete--> Busy --body written--> Flushing --flushed--> Idle
//! ```
//!
//! The wrapper of the socket and the handler of requests write it, the watchdog of the connection reads it.
//! Phase and time share one atomic word; there is no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use coarsetime::Instant;

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for the first byte of a request.
    Idle,
    /// Waits for the rest of a request's head.
    Head,
    /// Handles a request.
    Busy,
    /// Writes the last bytes of a response that is complete.
    Flushing,
}

/// Progress of a connection. All times are milliseconds since `started`.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    /// Phase in the upper 8 bits, and its begin in the lower 56.
    phase_and_begin: AtomicU64,
    /// Time at which the client stopped reading; 0 if it reads.
    stalled_since: AtomicU64,
    requests: AtomicU64,
    /// True once the server drains.
    drain: Arc<AtomicBool>,
    max_age: Duration,
}

impl Progress {
    /// Creates the progress of a new connection, which waits for its first byte.
    pub(crate) fn new(drain: Arc<AtomicBool>, max_age: Duration) -> Self {
        Self {
            started: Instant::now(),
            phase_and_begin: AtomicU64::new(0),
            stalled_since: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            drain,
            max_age,
        }
    }

    fn elapsed_ms(&self) -> u64 {
        self.started.elapsed().as_millis()
    }

    /// Current phase.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase_and_begin.load(Ordering::Relaxed) >> 56 {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::Flushing,
        }
    }

    /// Begins a phase.
    pub(crate) fn enter(&self, phase: Phase) {
        let number = match phase {
            Phase::Idle => 0,
            Phase::Head => 1,
            Phase::Busy => {
                self.requests.fetch_add(1, Ordering::Relaxed);
                2
            }
            Phase::Flushing => 3,
        };
        // The watchdog does not need the duration of requests, and reading the clock costs time.
        let begin = if matches!(phase, Phase::Busy | Phase::Flushing) { 0 } else { self.elapsed_ms() };
        self.phase_and_begin.store(number << 56 | begin, Ordering::Relaxed);
    }

    /// Time since the begin of the phase, if that is `Idle` or `Head`.
    pub(crate) fn waiting_for(&self) -> Duration {
        let begin = self.phase_and_begin.load(Ordering::Relaxed) & ((1 << 56) - 1);
        Duration::from_millis(self.elapsed_ms().saturating_sub(begin))
    }

    /// Number of requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// True if the current response should be the last one of the connection.
    pub(crate) fn is_last_response(&self) -> bool {
        self.drain.load(Ordering::Relaxed) || Duration::from_millis(self.elapsed_ms()) > self.max_age
    }

    /// Records whether the client reads: true after a write that made progress, false after one that has to
    /// wait.
    pub(crate) fn set_client_reads(&self, reads: bool) {
        let is_stalled = self.stalled_since.load(Ordering::Relaxed) != 0;
        if reads && is_stalled {
            self.stalled_since.store(0, Ordering::Relaxed);
        } else if !reads && !is_stalled {
            self.stalled_since.store(self.elapsed_ms().max(1), Ordering::Relaxed);
        }
    }

    /// Time for which the client has not read what is written to it.
    pub(crate) fn stalled_for(&self) -> Duration {
        match self.stalled_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.elapsed_ms().saturating_sub(since)),
        }
    }
}
