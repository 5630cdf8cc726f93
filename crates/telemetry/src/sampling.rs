//! Sampling decisions.
//!
//! The decision depends on the trace ID and a key that our services share. Services with one key therefore
//! sample the same traces without coordination, and those of a lower rate are among those of a higher one; a
//! client that picks its trace IDs cannot pick which of them are sampled. A parent's decision to sample is
//! followed only if the parent is trusted: otherwise any client could force sampling.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

use crate::{TraceContext, TraceId};

/// Keyed sampler of trace IDs.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Services with equal keys sample the same traces.
    key: u64,
}

impl Sampler {
    /// Creates a sampler. Its decisions can be predicted only with the key.
    pub fn new(key: u64) -> Self {
        Self { key }
    }

    /// Decides whether to sample a request at a `rate` from 0 to 1. `parent` is the context that came with
    /// the request; its decision is followed if `trusted`.
    pub fn should_sample(
        self,
        trace_id: TraceId,
        parent: Option<&TraceContext>,
        trusted: bool,
        rate: f64,
    ) -> bool {
        let sampled_by_parent = trusted && parent.is_some_and(|parent| parent.sampled);
        sampled_by_parent || self.selects(trace_id, rate)
    }

    /// Returns true if the keyed hash of a trace ID lies in the lowest fraction `rate` of all hashes.
    fn selects(self, trace_id: TraceId, rate: f64) -> bool {
        // 53 bits, the integer precision of a double.
        const RANGE: f64 = (1_u64 << 53) as f64;
        let hash = FixedState::with_seed(self.key).hash_one(trace_id.get()) >> 11;
        (hash as f64) < rate * RANGE
    }
}

/// Lowers the sampling rate under load, towards a target number of sampled requests per second.
///
/// Counts the requests of each second and adjusts the rate for the seconds after it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AdaptiveRate {
    /// Number of the current second since the epoch of the clock.
    second: u64,
    /// Requests in the current second so far.
    requests: u64,
    /// Moving average of the requests per second; `None` before the first complete second.
    mean_load: Option<f64>,
}

impl AdaptiveRate {
    /// Counts one request at `now_ns` (nanoseconds) and returns its sampling rate from 0 to 1: `configured`,
    /// or less if that would exceed the target under the load of the seconds before.
    pub(crate) fn next(&mut self, configured: f64, target_per_second: Option<f64>, now_ns: u64) -> f64 {
        let second = now_ns / 1_000_000_000;
        if second > self.second {
            let load = self.requests as f64 / (second - self.second) as f64;
            // The newest load weighs half, so the rate follows a jump in load within two seconds.
            self.mean_load = Some(self.mean_load.map_or(load, |mean| f64::midpoint(mean, load)));
            self.second = second;
            self.requests = 0;
        }
        self.requests += 1;
        match (target_per_second, self.mean_load) {
            (Some(target), Some(load)) if load > 0.0 => configured.min(target / load),
            _ => configured,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLER: Sampler = Sampler { key: 0x5eed };

    /// Returns the fraction of random trace IDs that are sampled.
    fn sampled_fraction(rate: f64, parent: Option<&TraceContext>, trusted: bool) -> f64 {
        let sampled =
            (0..100_000).filter(|_| SAMPLER.should_sample(TraceId::random(), parent, trusted, rate)).count();
        sampled as f64 / 100_000.0
    }

    /// The original system stored the rate and never read it: at 0.0001 it kept all of 1,000 traces.
    #[test]
    fn samples_the_configured_fraction_of_requests() {
        for rate in [0.0, 0.0001, 0.1, 0.5, 1.0] {
            let sampled = sampled_fraction(rate, None, false);
            assert!((sampled - rate).abs() < 0.01, "rate {rate}, sampled {sampled}");
        }
    }

    #[test]
    fn services_with_one_key_and_rate_sample_the_same_traces() {
        for _ in 0..1_000 {
            let id = TraceId::random();
            let (one, other) = (SAMPLER, Sampler::new(SAMPLER.key));
            assert_eq!(one.should_sample(id, None, false, 0.3), other.should_sample(id, None, false, 0.3));
            assert!(
                !one.should_sample(id, None, false, 0.1) || other.should_sample(id, None, false, 0.2),
                "a higher rate samples a superset"
            );
        }
    }

    #[test]
    fn a_client_that_picks_its_trace_ids_cannot_pick_what_is_sampled() {
        let pick = |id: u32| {
            // Small numbers, and numbers that differ only in their upper half.
            let text =
                if id.is_multiple_of(2) { format!("{id:032x}") } else { format!("{id:08x}{:024x}", 1) };
            TraceContext::parse(format!("00-{text}-b7ad6b7169203331-01").as_bytes()).unwrap()
        };
        let parents: Vec<_> = (1..100_000).map(pick).collect();
        let sampled = parents
            .iter()
            .filter(|parent| SAMPLER.should_sample(parent.trace_id, Some(parent), false, 0.1))
            .count();
        assert!((9_000..11_000).contains(&sampled), "{sampled} of 100,000");
    }

    #[test]
    fn only_a_trusted_parent_can_force_sampling() {
        let parent = TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert!((sampled_fraction(0.1, parent.as_ref(), false) - 0.1).abs() < 0.01);
        assert!((sampled_fraction(0.1, parent.as_ref(), true) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_rate_falls_under_load_towards_the_target() {
        let mut adaptive = AdaptiveRate::default();
        let mut sampled = 0.0;
        for i in 0..200_000_u64 {
            // 10,000 requests per second for 20 seconds.
            let rate = adaptive.next(0.5, Some(50.0), 1_000_000_000 + i * 100_000);
            if i >= 100_000 {
                sampled += rate;
            }
        }
        assert!((sampled / 10.0 - 50.0).abs() < 5.0, "{} per second", sampled / 10.0);
        let mut idle = AdaptiveRate::default();
        for i in 0..10 {
            assert!((idle.next(0.5, Some(50.0), i * 1_000_000_000) - 0.5).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn the_rate_is_the_target_over_the_mean_load_of_the_seconds_before() {
        let mut adaptive = AdaptiveRate::default();
        let mut last_rate_per_mille = |second: u64, requests: u32, target| {
            let rates = (0..requests).map(|_| adaptive.next(1.0, target, second * 1_000_000_000));
            rates.last().map_or(0, |rate| (rate * 1_000.0).round() as u32)
        };
        assert_eq!(last_rate_per_mille(10, 200, Some(50.0)), 1_000, "the load is not known yet");
        assert_eq!(last_rate_per_mille(11, 100, Some(50.0)), 500, "mean of 0 and 200");
        assert_eq!(
            last_rate_per_mille(13, 1, Some(50.0)),
            667,
            "100 in two seconds are 50 per second, and the mean before was 100"
        );
        assert_eq!(last_rate_per_mille(13, 1, None), 1_000);
    }
}
