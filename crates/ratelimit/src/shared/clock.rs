//! A monotonic clock with an exact and a cheaper, coarse reading, in nanoseconds since its start.
//!
//! On Linux the coarse reading returns the time of the kernel's last tick, which costs a quarter of the exact
//! one. Elsewhere both readings are exact.

/// A clock with two readings.
pub(super) struct Clock {
    started: StartTime,
    /// Maximum lag of the coarse reading, in nanoseconds.
    coarse_lag_ns: u64,
}

#[cfg(target_os = "linux")]
type StartTime = u64;
#[cfg(not(target_os = "linux"))]
type StartTime = std::time::Instant;

impl Clock {
    /// Starts a clock at zero.
    pub(super) fn start() -> Self {
        Self { started: sys::start(), coarse_lag_ns: sys::coarse_lag_ns() }
    }

    /// Exact time, in nanoseconds.
    pub(super) fn now_ns(&self) -> u64 {
        sys::now_ns(self.started)
    }

    /// Time at most [`Clock::coarse_lag_ns`] ago, in nanoseconds.
    pub(super) fn coarse_ns(&self) -> u64 {
        sys::coarse_ns(self.started)
    }

    /// Maximum lag of the coarse reading behind the exact one, in nanoseconds.
    pub(super) fn coarse_lag_ns(&self) -> u64 {
        self.coarse_lag_ns
    }
}

#[cfg(target_os = "linux")]
mod sys {
    use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

    pub(super) fn start() -> u64 {
        ns(clock_gettime(ClockId::Monotonic))
    }

    pub(super) fn coarse_lag_ns() -> u64 {
        ns(clock_getres(ClockId::MonotonicCoarse))
    }

    pub(super) fn now_ns(started: u64) -> u64 {
        ns(clock_gettime(ClockId::Monotonic)).saturating_sub(started)
    }

    pub(super) fn coarse_ns(started: u64) -> u64 {
        ns(clock_gettime(ClockId::MonotonicCoarse)).saturating_sub(started)
    }

    fn ns(time: Timespec) -> u64 {
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    use std::time::Instant;

    pub(super) fn start() -> Instant {
        Instant::now()
    }

    pub(super) fn coarse_lag_ns() -> u64 {
        0
    }

    pub(super) fn now_ns(started: Instant) -> u64 {
        started.elapsed().as_nanos() as u64
    }

    pub(super) fn coarse_ns(started: Instant) -> u64 {
        now_ns(started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_reading_is_never_ahead() {
        let clock = Clock::start();
        for _ in 0..100_000 {
            let coarse = clock.coarse_ns();
            assert!(coarse <= clock.now_ns());
        }
    }
}
