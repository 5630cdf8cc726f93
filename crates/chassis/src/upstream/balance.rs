//! Which endpoint gets a call: the better one of two drawn at random ("power of two choices"),
//! by requests in flight times latency. Pure.
//!
//! Two drawn at random spread load almost as evenly as looking at all of them, and callers that
//! act on the same figures do not all run to the same endpoint.

use std::time::Duration;

/// A newly ready endpoint gets less than its share for so long.
const SLOW_START: Duration = Duration::from_secs(10);
/// Latency below which endpoints count as equally fast, in milliseconds: differences below it say
/// more of the scheduler than of the endpoint.
const FLOOR_MS: f64 = 1.0;
/// Weight of the newest latency in the mean.
const NEWEST: f64 = 0.2;
/// A latency is believed half as much after each such time without a call. One slow call would
/// otherwise keep an endpoint idle for ever, because only a call can show that it has recovered.
const HALF_LIFE: Duration = Duration::from_secs(2);

/// An exponentially weighted mean of the latencies of an endpoint's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    mean_ms: f64,
}

impl Latency {
    /// `before` and one more call.
    pub(crate) fn with(before: Option<Self>, took: Duration) -> Self {
        let newest = took.as_secs_f64() * 1e3;
        let mean_ms = before.map_or(newest, |before| before.mean_ms * (1.0 - NEWEST) + newest * NEWEST);
        Self { mean_ms }
    }

    pub(crate) fn mean_ms(self) -> f64 {
        self.mean_ms
    }

    /// What is still believed of it so long after the last call.
    pub(crate) fn believed_ms(self, since: Duration) -> f64 {
        self.mean_ms * (-since.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }
}

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Calls on their way.
    pub(crate) in_flight: usize,
    /// Believed latency, in milliseconds; none: not measured yet.
    pub(crate) latency_ms: Option<f64>,
    /// For how long it has been ready.
    pub(crate) ready_for: Duration,
}

impl Candidate {
    fn cost(&self, unmeasured_ms: f64) -> f64 {
        let latency = self.latency_ms.unwrap_or(unmeasured_ms).max(FLOOR_MS);
        let warm = (self.ready_for.as_secs_f64() / SLOW_START.as_secs_f64()).clamp(0.1, 1.0);
        (self.in_flight + 1) as f64 * latency / warm
    }
}

/// The index of the chosen candidate; `draws` are two random numbers in [0, 1).
pub(crate) fn choose(candidates: &[Candidate], draws: [f64; 2]) -> Option<usize> {
    let count = candidates.len();
    if count < 2 {
        return (count == 1).then_some(0);
    }
    let first = ((draws[0] * count as f64) as usize).min(count - 1);
    let step = 1 + ((draws[1] * (count - 1) as f64) as usize).min(count - 2);
    let second = (first + step) % count;
    // One that was not measured yet is taken to be like the others, not infinitely fast.
    let known: Vec<f64> = candidates.iter().filter_map(|candidate| candidate.latency_ms).collect();
    let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
    let cheaper = candidates[first].cost(mean) <= candidates[second].cost(mean);
    Some(if cheaper { first } else { second })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(in_flight: usize, latency_ms: impl Into<Option<f64>>) -> Candidate {
        Candidate { in_flight, latency_ms: latency_ms.into(), ready_for: Duration::from_mins(1) }
    }

    fn shares(candidates: &[Candidate]) -> Vec<f64> {
        let mut counts = vec![0.0; candidates.len()];
        let steps = 100;
        for i in 0..steps {
            for j in 0..steps {
                let draws = [f64::from(i) / f64::from(steps), f64::from(j) / f64::from(steps)];
                counts[choose(candidates, draws).unwrap()] += 1.0 / f64::from(steps * steps);
            }
        }
        counts
    }

    /// The original gave an undefined target after a removal.
    #[test]
    fn error_when_no_healthy_targets() {
        assert_eq!(choose(&[], [0.5, 0.5]), None);
        assert_eq!(choose(&[candidate(0, 1.0)], [0.999, 0.999]), Some(0));
    }

    #[test]
    fn equal_targets_get_equal_shares() {
        for share in shares(&[candidate(0, 5.0); 4]) {
            assert!((share - 0.25).abs() < 0.03, "{share}");
        }
    }

    /// The original counted requests ever served, not those under way.
    #[test]
    fn prefers_the_target_with_fewer_requests_in_flight() {
        assert!(shares(&[candidate(9, 5.0), candidate(0, 5.0)])[1] > 0.99);
    }

    #[test]
    fn latency_aware_prefers_the_faster() {
        assert!(shares(&[candidate(0, 50.0), candidate(0, 5.0)])[1] > 0.7);
    }

    /// The original sent everything to any target that had not been measured.
    #[test]
    fn a_target_without_measurements_does_not_get_everything() {
        let shares = shares(&[candidate(0, 5.0), candidate(0, None), candidate(0, 5.0)]);
        assert!((shares[1] - 1.0 / 3.0).abs() < 0.05, "{shares:?}");
    }

    #[test]
    fn the_newest_latency_weighs_a_fifth_and_half_is_believed_after_two_seconds() {
        let first = Latency::with(None, Duration::from_millis(10));
        let latency = Latency::with(Some(first), Duration::from_millis(20));
        assert!((latency.mean_ms() - 12.0).abs() < 1e-9, "{latency:?}");
        for (secs, believed) in [(0, 12.0), (2, 6.0), (4, 3.0)] {
            let left = latency.believed_ms(Duration::from_secs(secs));
            assert!((left - believed).abs() < 1e-9, "{left} ms after {secs} s");
        }
    }

    #[test]
    fn a_target_that_was_slow_once_is_tried_again() {
        let once_slow = Latency::with(None, Duration::from_millis(500));
        let after = |seconds| candidate(0, once_slow.believed_ms(Duration::from_secs(seconds)));
        assert!(shares(&[after(1), candidate(0, 5.0)])[1] > 0.99);
        assert!(shares(&[after(20), candidate(0, 5.0)])[0] > 0.5);
    }

    #[test]
    fn a_target_that_just_became_ready_starts_slowly() {
        let fresh = Candidate { ready_for: Duration::from_secs(1), ..candidate(0, 5.0) };
        let busy = candidate(3, 5.0);
        assert!(shares(&[fresh, busy])[1] > 0.9, "although it is idle");
        let warm = Candidate { ready_for: Duration::from_secs(9), ..fresh };
        assert!(shares(&[warm, busy])[0] > 0.9);
    }
}
