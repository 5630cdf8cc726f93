//! Which requests leave a trace.
//!
//! The choice is made by the trace id and a key that our services share: the same id is chosen by
//! every one of them with the same or a higher rate, so a trace is whole without the services talking
//! about it, and a client that picks its ids cannot pick what is sampled. A parent's decision to
//! sample is followed only when the parent is trusted; anybody else could force it.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

use crate::{TraceContext, TraceId};

/// Chooses among trace ids.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Services with the same key choose the same traces.
    key: u64,
}

impl Sampler {
    /// A sampler whose choice only those know who know its key.
    pub fn new(key: u64) -> Self {
        Self { key }
    }

    /// Whether a request is sampled.
    ///
    /// `rate` is from 0 to 1. `parent` is the context that came with the request, `trusted` whether
    /// its sender may decide for us.
    pub fn sampled(self, trace_id: TraceId, parent: Option<&TraceContext>, trusted: bool, rate: f64) -> bool {
        let chosen_upstream = trusted && parent.is_some_and(|parent| parent.sampled);
        chosen_upstream || self.below(trace_id, rate)
    }

    /// Whether an id falls into the share `rate` of all ids.
    fn below(self, trace_id: TraceId, rate: f64) -> bool {
        // As many bits as a float holds exactly.
        const SPACE: f64 = (1_u64 << 53) as f64;
        let position = FixedState::with_seed(self.key).hash_one(trace_id.get()) >> 11;
        (position as f64) < rate * SPACE
    }
}

/// Lowers the rate under load, so that about a given number of requests per second is sampled.
///
/// Looks at the requests of each full second and corrects the rate for the next one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    second: u64,
    seen: u64,
    per_second: Option<f64>,
}

impl Pace {
    /// Counts one request and gives the rate for it.
    pub fn rate(&mut self, configured: f64, target_per_second: Option<f64>, now_ns: u64) -> f64 {
        let second = now_ns / 1_000_000_000;
        if second > self.second {
            let full = self.seen as f64 / (second - self.second) as f64;
            // The newest second weighs half: a jump in load is followed within two seconds.
            self.per_second = Some(self.per_second.map_or(full, |mean| f64::midpoint(mean, full)));
            self.second = second;
            self.seen = 0;
        }
        self.seen += 1;
        match (target_per_second, self.per_second) {
            (Some(target), Some(load)) if load > 0.0 => configured.min(target / load),
            _ => configured,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLER: Sampler = Sampler { key: 0x5eed };

    fn share(rate: f64, parent: Option<&TraceContext>, trusted: bool) -> f64 {
        let chosen =
            (0..100_000).filter(|_| SAMPLER.sampled(TraceId::random(), parent, trusted, rate)).count();
        chosen as f64 / 100_000.0
    }

    /// The original stored the rate and never read it: at 0.0001 it kept all of 1,000 traces.
    #[test]
    fn samples_the_configured_share_of_requests() {
        for rate in [0.0, 0.0001, 0.1, 0.5, 1.0] {
            let got = share(rate, None, false);
            assert!((got - rate).abs() < 0.01, "asked for {rate}, got {got}");
        }
    }

    #[test]
    fn services_with_the_same_rate_choose_the_same_traces() {
        for _ in 0..1_000 {
            let id = TraceId::random();
            let (here, there) = (SAMPLER, Sampler::new(SAMPLER.key));
            assert_eq!(here.sampled(id, None, false, 0.3), there.sampled(id, None, false, 0.3));
            assert!(
                !here.sampled(id, None, false, 0.1) || there.sampled(id, None, false, 0.2),
                "and a higher one more"
            );
        }
    }

    #[test]
    fn a_client_that_picks_its_ids_cannot_pick_what_is_sampled() {
        let picked = |id: u32| {
            // Small numbers, and numbers that differ in their upper half only.
            let text =
                if id.is_multiple_of(2) { format!("{id:032x}") } else { format!("{id:08x}{:024x}", 1) };
            TraceContext::parse(format!("00-{text}-b7ad6b7169203331-01").as_bytes()).unwrap()
        };
        let parents: Vec<_> = (1..100_000).map(picked).collect();
        let chosen = parents
            .iter()
            .filter(|parent| SAMPLER.sampled(parent.trace_id, Some(parent), false, 0.1))
            .count();
        assert!((9_000..11_000).contains(&chosen), "{chosen} of 100,000");
    }

    #[test]
    fn only_a_trusted_parent_can_force_sampling() {
        let parent = TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert!((share(0.1, parent.as_ref(), false) - 0.1).abs() < 0.01);
        assert!((share(0.1, parent.as_ref(), true) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_rate_falls_under_load_towards_the_target() {
        let mut pace = Pace::default();
        let mut kept = 0.0;
        for i in 0..200_000_u64 {
            // 10,000 requests per second for 20 seconds.
            let rate = pace.rate(0.5, Some(50.0), 1_000_000_000 + i * 100_000);
            if i >= 100_000 {
                kept += rate;
            }
        }
        assert!((kept / 10.0 - 50.0).abs() < 5.0, "{} a second", kept / 10.0);
        let mut quiet = Pace::default();
        for i in 0..10 {
            assert!((quiet.rate(0.5, Some(50.0), i * 1_000_000_000) - 0.5).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn the_rate_is_the_target_over_the_mean_load_of_the_seconds_before() {
        let mut pace = Pace::default();
        let mut last = |second: u64, requests: u32, target| {
            let rates = (0..requests).map(|_| pace.rate(1.0, target, second * 1_000_000_000));
            rates.last().map_or(0, |rate| (rate * 1_000.0).round() as u32)
        };
        assert_eq!(last(10, 200, Some(50.0)), 1_000, "nothing is known of the load yet");
        assert_eq!(last(11, 100, Some(50.0)), 500, "of nothing and 200");
        assert_eq!(last(13, 1, Some(50.0)), 667, "100 in two seconds are 50 in each, and the mean was 100");
        assert_eq!(last(13, 1, None), 1_000);
    }
}
