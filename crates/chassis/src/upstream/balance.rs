//! Choice of the endpoint for a call: the better one of two drawn at random ("power of two choices"), by calls
//! in flight times latency. Pure.
//!
//! Two random candidates spread the load almost as evenly as a comparison of all, and callers with the same
//! figures do not all choose the same endpoint. An endpoint that has just become ready receives only a share of
//! its calls at first, but some of them at once, however few calls there are.

use std::time::Duration;

use super::latency::MIN_LATENCY_MS;

/// State of an endpoint, as the balancer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointState {
    /// The circuit breaker admits calls, and probes do not fail.
    Healthy,
    /// The circuit breaker admits calls, but probes fail.
    Suspect,
    /// The circuit breaker rejects calls.
    Open,
}

/// Returns the panic threshold: the smallest number of eligible endpoints while at least one endpoint can be
/// called.
const fn panic_threshold(endpoints: usize) -> usize {
    endpoints.div_ceil(2)
}

/// Returns the indices of the endpoints that may be called now, in no order.
///
/// These are the healthy ones, or else the suspect ones: probes may be wrong about all endpoints at once. If
/// fewer than the panic threshold remain, suspect and then open endpoints are added, because the few would fail
/// next under the load of all. `turn` rotates the added ones, so that each is added in turn. If every breaker
/// is open there is no outlier: the peer itself is down, and no endpoint is eligible.
pub(crate) fn eligible(states: &[EndpointState], turn: usize) -> Vec<usize> {
    let in_state = |state| (0..states.len()).filter(move |index| states[*index] == state);
    let mut eligible: Vec<usize> = in_state(EndpointState::Healthy).collect();
    if eligible.is_empty() {
        eligible = in_state(EndpointState::Suspect).collect();
    }
    let threshold = panic_threshold(states.len());
    if eligible.is_empty() || eligible.len() >= threshold {
        return eligible;
    }
    for state in [EndpointState::Suspect, EndpointState::Open] {
        let mut others: Vec<usize> = in_state(state).filter(|index| !eligible.contains(index)).collect();
        if !others.is_empty() {
            let first = turn % others.len();
            others.rotate_left(first);
        }
        let missing = threshold - eligible.len();
        eligible.extend(others.into_iter().take(missing));
    }
    eligible
}

/// Time for which an endpoint that has become ready receives less than its share of calls.
const SLOW_START: Duration = Duration::from_secs(10);
/// Share of the calls at the begin of the slow start.
const MIN_SHARE: f64 = 0.1;
/// Factor between two latencies up to which they count as equal: otherwise the faster one of two similar
/// endpoints would receive all calls that come one after another.
const LATENCY_TOLERANCE: f64 = 1.5;

/// Figures of an endpoint that the balancer compares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Calls in flight.
    pub(crate) in_flight: usize,
    /// Estimated latency in milliseconds; `None` if not yet measured.
    pub(crate) latency_ms: Option<f64>,
    /// Time since the endpoint became ready.
    pub(crate) ready_for: Duration,
}

impl Candidate {
    /// True if this candidate is at least as good as `other`. `unmeasured_ms` stands for unknown latencies.
    fn is_no_worse(&self, other: &Self, unmeasured_ms: f64) -> bool {
        let latency = |candidate: &Self| candidate.latency_ms.unwrap_or(unmeasured_ms).max(MIN_LATENCY_MS);
        let ratio = latency(self) / latency(other);
        let is_similar = (1.0 / LATENCY_TOLERANCE..=LATENCY_TOLERANCE).contains(&ratio);
        let ratio = if is_similar { 1.0 } else { ratio };
        (self.in_flight + 1) as f64 * ratio <= (other.in_flight + 1) as f64
    }

    /// True if the candidate leaves this call to others because of its slow start.
    fn yields(&self, draw: f64) -> bool {
        draw >= (self.ready_for.as_secs_f64() / SLOW_START.as_secs_f64()).clamp(MIN_SHARE, 1.0)
    }
}

/// Random numbers for one choice, from 0 (included) to 1 (excluded).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draws {
    /// Draws the first candidate.
    pub(crate) first: f64,
    /// Draws the second candidate.
    pub(crate) second: f64,
    /// Decides on candidates in their slow start.
    pub(crate) slow_start: f64,
}

impl Draws {
    pub(crate) fn random() -> Self {
        Self { first: rand::random(), second: rand::random(), slow_start: rand::random() }
    }
}

/// Returns the index of the chosen candidate; `None` if there is no candidate.
pub(crate) fn choose(candidates: &[Candidate], draws: Draws) -> Option<usize> {
    let count = candidates.len();
    if count < 2 {
        return (count == 1).then_some(0);
    }
    let first = ((draws.first * count as f64) as usize).min(count - 1);
    let step = 1 + ((draws.second * (count - 1) as f64) as usize).min(count - 2);
    let second = (first + step) % count;
    // A candidate without measurements counts as average, not as infinitely fast.
    let known: Vec<f64> = candidates.iter().filter_map(|candidate| candidate.latency_ms).collect();
    let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
    let yields = |index: usize| candidates[index].yields(draws.slow_start);
    let is_first_better = match (yields(first), yields(second)) {
        (true, false) => false,
        (false, true) => true,
        _ => candidates[first].is_no_worse(&candidates[second], mean),
    };
    Some(if is_first_better { first } else { second })
}

#[cfg(test)]
mod tests {
    use super::{super::latency::LatencyEwma, *};

    fn candidate(in_flight: usize, latency_ms: impl Into<Option<f64>>) -> Candidate {
        Candidate { in_flight, latency_ms: latency_ms.into(), ready_for: Duration::from_mins(1) }
    }

    /// Returns the fraction of all draws that choose each candidate.
    fn shares(candidates: &[Candidate]) -> Vec<f64> {
        let mut counts = vec![0.0; candidates.len()];
        let steps = 60;
        let draws = || (0..steps).map(|step| f64::from(step) / f64::from(steps));
        for first in draws() {
            for second in draws() {
                for third in draws() {
                    let draws = Draws { first, second, slow_start: third };
                    let chosen = choose(candidates, draws).unwrap();
                    counts[chosen] += 1.0 / f64::from(steps * steps * steps);
                }
            }
        }
        counts
    }

    #[test]
    fn below_the_panic_threshold_other_endpoints_are_added_in_turn() {
        use EndpointState::{Healthy, Open, Suspect};
        assert_eq!(eligible(&[Healthy, Open], 0), [0]);
        assert_eq!(eligible(&[Healthy, Open, Healthy, Open], 0), [0, 2]);
        assert_eq!(eligible(&[Open, Healthy, Open, Open], 0), [1, 0]);
        assert_eq!(eligible(&[Open, Healthy, Open, Open], 1), [1, 2]);
        assert_eq!(
            eligible(&[Open, Healthy, Suspect, Open], 5),
            [1, 2],
            "suspect endpoints come before open ones"
        );
        assert_eq!(eligible(&[Suspect, Suspect, Open], 0), [0, 1], "probes may all be wrong");
        assert_eq!(eligible(&[Suspect, Open, Open, Open], 2), [0, 3]);
        for down in [&[][..], &[Open], &[Open, Open, Open]] {
            assert_eq!(eligible(down, 0), Vec::<usize>::new(), "the peer itself is down");
        }
    }

    proptest::proptest! {
        #[test]
        fn at_least_half_are_eligible_while_one_can_be_called(
            kinds in proptest::collection::vec(0..3_usize, 1..40), turn in 0..100_usize,
        ) {
            let all = [EndpointState::Healthy, EndpointState::Suspect, EndpointState::Open];
            let states: Vec<_> = kinds.into_iter().map(|number| all[number]).collect();
            let mut eligible = eligible(&states, turn);
            let count = eligible.len();
            eligible.sort_unstable();
            eligible.dedup();
            proptest::prop_assert_eq!(eligible.len(), count, "an endpoint occurs twice");
            if states.iter().all(|state| *state == EndpointState::Open) {
                proptest::prop_assert_eq!(count, 0);
            } else {
                proptest::prop_assert!(2 * count >= states.len());
                let is_healthy = |index: usize| states[index] == EndpointState::Healthy;
                proptest::prop_assert!(
                    (0..states.len()).all(|index| !is_healthy(index) || eligible.contains(&index))
                );
            }
        }
    }

    /// The original system returned an undefined target after a removal.
    #[test]
    fn no_candidate_means_no_choice() {
        let draws = |number| Draws { first: number, second: number, slow_start: number };
        assert_eq!(choose(&[], draws(0.5)), None);
        assert_eq!(choose(&[candidate(0, 1.0)], draws(0.999)), Some(0));
    }

    #[test]
    fn equal_endpoints_receive_equal_shares() {
        for share in shares(&[candidate(0, 5.0); 4]) {
            assert!((share - 0.25).abs() < 0.03, "{share}");
        }
    }

    /// The original system counted all requests since the start, not those in flight.
    #[test]
    fn prefers_the_endpoint_with_fewer_calls_in_flight() {
        assert!(shares(&[candidate(9, 5.0), candidate(0, 5.0)])[1] > 0.99);
    }

    #[test]
    fn prefers_the_faster_endpoint() {
        assert!(shares(&[candidate(0, 50.0), candidate(0, 5.0)])[1] > 0.7);
    }

    /// The one of two equal endpoints whose first call happened to be faster received fifty calls in a row.
    #[test]
    fn a_slightly_faster_endpoint_does_not_receive_all_calls() {
        for (slower, share) in [(5.0, 0.5), (7.4, 0.5), (7.6, 0.0)] {
            let shares = shares(&[candidate(0, slower), candidate(0, 5.0)]);
            assert!((shares[0] - share).abs() < 0.05, "{slower} ms: {shares:?}");
        }
        assert!(shares(&[candidate(1, 5.0), candidate(0, 6.0)])[1] > 0.99, "the less busy one");
    }

    /// The original system sent all requests to an endpoint without measurements.
    #[test]
    fn an_endpoint_without_measurements_receives_its_share() {
        let shares = shares(&[candidate(0, 5.0), candidate(0, None), candidate(0, 5.0)]);
        assert!((shares[1] - 1.0 / 3.0).abs() < 0.05, "{shares:?}");
    }

    #[test]
    fn an_endpoint_that_was_slow_once_is_tried_again() {
        let slow = LatencyEwma::first(Duration::from_millis(500));
        let after = |seconds| candidate(0, slow.decayed_ms(Duration::from_secs(seconds)));
        assert!(shares(&[after(1), candidate(0, 5.0)])[1] > 0.99);
        assert!(shares(&[after(20), candidate(0, 5.0)])[0] > 0.5);
    }

    #[test]
    fn an_endpoint_that_has_just_become_ready_starts_slowly() {
        let after = |seconds| Candidate { ready_for: Duration::from_secs(seconds), ..candidate(0, 5.0) };
        for (seconds, min, max) in [(0, 0.04, 0.06), (5, 0.24, 0.26), (10, 0.49, 0.51)] {
            let share = shares(&[after(seconds), candidate(0, 5.0)])[0];
            assert!((min..=max).contains(&share), "{share} after {seconds} s");
        }
        assert!(shares(&[after(1), candidate(3, 5.0)])[1] > 0.8, "although the new endpoint is idle");
        assert!(shares(&[after(9), candidate(3, 5.0)])[0] > 0.8);
        assert!(shares(&[after(0), after(0)])[0] > 0.45, "two new endpoints share the calls");
    }
}
