//! What a connection is doing, and for how long.
//!
//! ```text
//!   Idle --first byte--> Head --head complete--> Busy --body written--> Flushing --flushed--> Idle
//! ```
//!
//! Written by the socket's wrapper and by the request's handler, read by the connection's
//! watchdog. One atomic word, no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use coarsetime::Instant;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for the first byte of a request.
    Idle,
    /// Has some of a request's head.
    Head,
    /// Answers a request.
    Busy,
    /// The answer is complete, its last bytes are being written.
    Flushing,
}

/// A connection's phase and since when.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    /// Phase in the upper 8 bits, milliseconds since `started` below.
    now: AtomicU64,
    /// Milliseconds since `started` at which the peer stopped reading; 0: it reads.
    blocked: AtomicU64,
    requests: AtomicU64,
    leaving: Arc<AtomicBool>,
    max_age: Duration,
}

impl Progress {
    /// `leaving`: the server is about to end.
    pub(crate) fn new(leaving: Arc<AtomicBool>, max_age: Duration) -> Self {
        Self {
            leaving,
            max_age,
            started: Instant::now(),
            now: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        self.started.elapsed().as_millis()
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.now.load(Ordering::Relaxed) >> 56 {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::Flushing,
        }
    }

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
        // How long a request takes is watched elsewhere, so the clock is left alone for it.
        let since = if matches!(phase, Phase::Busy | Phase::Flushing) { 0 } else { self.elapsed_ms() };
        self.now.store(number << 56 | since, Ordering::Relaxed);
    }

    /// Time spent in `Idle` or `Head`.
    pub(crate) fn waiting(&self) -> Duration {
        let since = self.now.load(Ordering::Relaxed) & ((1 << 56) - 1);
        Duration::from_millis(self.elapsed_ms().saturating_sub(since))
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether the answer that is given now is to be the connection's last one.
    pub(crate) fn is_last(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || Duration::from_millis(self.elapsed_ms()) > self.max_age
    }

    pub(crate) fn peer_reads(&self, reads: bool) {
        if reads {
            if self.blocked.load(Ordering::Relaxed) != 0 {
                self.blocked.store(0, Ordering::Relaxed);
            }
        } else if self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(self.elapsed_ms().max(1), Ordering::Relaxed);
        }
    }

    /// For how long the peer has not read what is written to it.
    pub(crate) fn blocked_for(&self) -> Duration {
        match self.blocked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.elapsed_ms().saturating_sub(since)),
        }
    }
}
