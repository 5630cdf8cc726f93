//! Mean latency of an endpoint's calls. Pure.
//!
//! The mean is exponentially weighted, and loses weight with time: only a call can show that a slow endpoint
//! has recovered, so an endpoint that was slow once must be called again.

use std::time::Duration;

/// Weight of the latest call in the mean.
const EWMA_ALPHA: f64 = 0.2;
/// Time without a call after which the mean has half of its weight.
const HALF_LIFE: Duration = Duration::from_secs(2);
/// Upper limit of the half-life in [`LatencyEwma::decayed_ms`], in multiples of the mean: the faster a call
/// is, the less a trial costs.
const HALF_LIFE_IN_LATENCIES: f64 = 10.0;
/// Latency below which endpoints are equally fast, in milliseconds: smaller differences depend on the scheduler,
/// not on the endpoint.
pub(super) const MIN_LATENCY_MS: f64 = 1.0;

/// Exponentially weighted moving average of latencies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatencyEwma {
    mean_ms: f64,
}

impl LatencyEwma {
    /// Creates an average from the first latency.
    pub(crate) fn first(latency: Duration) -> Self {
        Self { mean_ms: to_ms(latency) }
    }

    /// Adds a latency, `since_last` after the one before. The longer the time between them, the less weight the
    /// mean has: one slow call must not outweigh fast calls that are seconds apart.
    pub(crate) fn add(self, latency: Duration, since_last: Duration) -> Self {
        let weight = (1.0 - EWMA_ALPHA) * remaining_weight(since_last, HALF_LIFE);
        Self { mean_ms: self.mean_ms * weight + to_ms(latency) * (1.0 - weight) }
    }

    /// Mean latency in milliseconds.
    pub(crate) fn mean_ms(self) -> f64 {
        self.mean_ms
    }

    /// Estimated latency in milliseconds of a call now, `since_last` after the last one. Decays towards zero.
    pub(crate) fn decayed_ms(self, since_last: Duration) -> f64 {
        let in_latencies = HALF_LIFE_IN_LATENCIES * self.mean_ms.max(MIN_LATENCY_MS) / 1e3;
        let half_life = HALF_LIFE.min(Duration::from_secs_f64(in_latencies));
        self.mean_ms * remaining_weight(since_last, half_life)
    }
}

fn to_ms(latency: Duration) -> f64 {
    latency.as_secs_f64() * 1e3
}

fn remaining_weight(elapsed: Duration, half_life: Duration) -> f64 {
    (-elapsed.as_secs_f64() / half_life.as_secs_f64()).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(ms: u64) -> LatencyEwma {
        LatencyEwma::first(Duration::from_millis(ms))
    }

    #[test]
    fn the_latest_latency_weighs_a_fifth_and_the_estimate_halves_after_ten_latencies_or_two_seconds() {
        let latency = first(10).add(Duration::from_millis(20), Duration::ZERO);
        assert!((latency.mean_ms() - 12.0).abs() < 1e-9, "{latency:?}");
        let slow = first(900);
        for (latency, millis, estimate) in [
            (latency, 0, 12.0),
            (latency, 120, 6.0),
            (latency, 240, 3.0),
            (slow, 2_000, 450.0),
            (slow, 4_000, 225.0),
        ] {
            let decayed = latency.decayed_ms(Duration::from_millis(millis));
            assert!((decayed - estimate).abs() < 1e-9, "{decayed} ms after {millis} ms");
        }
    }

    /// An endpoint was considered slow even after twenty fast calls, and received hardly any.
    #[test]
    fn a_fast_call_long_after_a_slow_one_outweighs_it() {
        let fast = first(500).add(Duration::from_millis(2), Duration::from_secs(20));
        assert!(fast.mean_ms() < 3.0, "{fast:?}");
    }
}
