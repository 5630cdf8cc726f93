//! The time of a limiter, in nanoseconds since it began: exactly, and cheaply.

/// Two readings of one clock.
pub(super) struct Clock {
    began: Began,
    /// How far the cheap reading may be behind.
    behind_ns: u64,
}

#[cfg(target_os = "linux")]
type Began = u64;
#[cfg(not(target_os = "linux"))]
type Began = std::time::Instant;

impl Clock {
    /// Begins now.
    pub(super) fn start() -> Self {
        Self { began: sys::begin(), behind_ns: sys::behind_ns() }
    }

    /// Now.
    pub(super) fn now_ns(&self) -> u64 {
        sys::now_ns(self.began)
    }

    /// A moment that was at most [`Clock::behind_ns`] ago.
    pub(super) fn recent_ns(&self) -> u64 {
        sys::recent_ns(self.began)
    }

    pub(super) fn behind_ns(&self) -> u64 {
        self.behind_ns
    }
}

/// The kernel notes the time at each of its ticks: to read that costs a quarter of reading the processor's
/// counter.
#[cfg(target_os = "linux")]
mod sys {
    use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

    pub(super) fn begin() -> u64 {
        ns(clock_gettime(ClockId::Monotonic))
    }

    pub(super) fn behind_ns() -> u64 {
        ns(clock_getres(ClockId::MonotonicCoarse))
    }

    pub(super) fn now_ns(began: u64) -> u64 {
        ns(clock_gettime(ClockId::Monotonic)).saturating_sub(began)
    }

    pub(super) fn recent_ns(began: u64) -> u64 {
        ns(clock_gettime(ClockId::MonotonicCoarse)).saturating_sub(began)
    }

    fn ns(time: Timespec) -> u64 {
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    use std::time::Instant;

    pub(super) fn begin() -> Instant {
        Instant::now()
    }

    pub(super) fn behind_ns() -> u64 {
        0
    }

    pub(super) fn now_ns(began: Instant) -> u64 {
        began.elapsed().as_nanos() as u64
    }

    pub(super) fn recent_ns(began: Instant) -> u64 {
        now_ns(began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheap_reading_is_never_ahead() {
        let clock = Clock::start();
        for _ in 0..100_000 {
            let recent = clock.recent_ns();
            assert!(recent <= clock.now_ns());
        }
    }
}
