//! Delay before a job that failed runs again.

use std::time::Duration;

/// Longest delay.
const MAX: Duration = Duration::from_mins(5);
/// Longest delay relative to the period of the job.
const MAX_PERIODS: u32 = 10;

/// Delay of the next run: the period after a success; after failures a delay that doubles from one second, up to
/// ten periods or five minutes.
///
/// The bound by the period keeps a job that follows a change every two seconds close to its period after an
/// outage.
#[derive(Clone, Debug)]
pub struct RetryDelay {
    period: Duration,
    failures: u32,
}

impl RetryDelay {
    /// Creates the delays of a job that has not failed.
    pub fn new(period: Duration) -> Self {
        Self { period, failures: 0 }
    }

    /// Failed runs since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the delay after a successful run.
    pub fn after_success(&mut self) -> Duration {
        self.failures = 0;
        self.period
    }

    /// Returns the delay after a failed run. `jitter`, from 0 to 1, shortens it by up to half, so that replicas
    /// which fail together do not retry together.
    pub fn after_failure(&mut self, jitter: f64) -> Duration {
        let doubled =
            Duration::from_secs(1).saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let longest = self.period.saturating_mul(MAX_PERIODS).min(MAX);
        doubled.min(longest).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(delays: &mut RetryDelay, count: usize) -> Vec<f64> {
        (0..count).map(|_| delays.after_failure(0.0).as_secs_f64()).collect()
    }

    #[test]
    fn failures_double_the_delay_up_to_its_bound() {
        let mut long = RetryDelay::new(Duration::from_hours(1));
        assert_eq!(seconds(&mut long, 10), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0]);
        let mut short = RetryDelay::new(Duration::from_secs(2));
        assert_eq!(seconds(&mut short, 7), [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]);
        assert_eq!(short.after_success(), Duration::from_secs(2));
        assert_eq!(seconds(&mut short, 2), [1.0, 2.0]);
    }

    proptest! {
        #[test]
        fn no_delay_exceeds_its_bounds(period_ms in 1_u64..10_000_000, jitter in prop::collection::vec(0.0_f64..=1.0, 1..80)) {
            let period = Duration::from_millis(period_ms);
            let mut delays = RetryDelay::new(period);
            for jitter in jitter {
                let delay = delays.after_failure(jitter);
                prop_assert!(delay > Duration::ZERO);
                prop_assert!(delay <= MAX && delay <= period * MAX_PERIODS);
            }
        }
    }
}
