//! Which endpoint gets a call: the better one of two drawn at random ("power of two choices"),
//! by requests in flight times latency. Pure.
//!
//! Two drawn at random spread load almost as evenly as looking at all of them, and callers that
//! act on the same figures do not all run to the same endpoint. One that is newly ready stands back
//! from most draws, and yet gets some calls from the first moment, however few there are.

use std::time::Duration;

/// How an endpoint stands when a call looks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing speaks against it.
    Well,
    /// Its probes fail, its calls do not.
    Doubtful,
    /// Its breaker admits no call now.
    Refusing,
}

/// The endpoints that may be called now, in no order.
///
/// At most half of them are left out while one of them can be called: where most fail it is rarely they
/// who are at fault, and the few that are left would fail next, under the load of all. The rest are the last
/// resort, from `turn` on, so that each has its turn. Where every breaker refuses, nobody is an outlier: the
/// peer itself is gone, and no one is called.
pub(crate) fn eligible(standings: &[Standing], turn: usize) -> Vec<usize> {
    let of = |wanted| (0..standings.len()).filter(move |index| standings[*index] == wanted);
    let mut eligible: Vec<usize> = of(Standing::Well).collect();
    if eligible.is_empty() {
        // Probes can be wrong about all of them at once; the breakers have the last word.
        eligible = of(Standing::Doubtful).collect();
    }
    let fewest = standings.len().div_ceil(2);
    if eligible.is_empty() || eligible.len() >= fewest {
        return eligible;
    }
    for standing in [Standing::Doubtful, Standing::Refusing] {
        let mut others: Vec<usize> = of(standing).filter(|index| !eligible.contains(index)).collect();
        if !others.is_empty() {
            let first = turn % others.len();
            others.rotate_left(first);
        }
        let missing = fewest - eligible.len();
        eligible.extend(others.into_iter().take(missing));
    }
    eligible
}

/// A newly ready endpoint gets less than its share for so long, and this part of it to begin with.
const SLOW_START: Duration = Duration::from_secs(10);
const LEAST_SHARE: f64 = 0.1;
/// Latency below which endpoints count as equally fast, in milliseconds: differences below it say
/// more of the scheduler than of the endpoint.
const FLOOR_MS: f64 = 1.0;
/// And so do those that are apart by a smaller factor: the faster of two equal ones would otherwise get all
/// calls that come one after another.
const ALIKE: f64 = 1.5;
/// Weight of the newest latency in the mean.
const NEWEST: f64 = 0.2;
/// A latency is believed half as much after each such time without a call. One slow call would
/// otherwise keep an endpoint idle for ever, because only a call can show that it has recovered.
const HALF_LIFE: Duration = Duration::from_secs(2);
/// Or after so many times itself: the sooner a call is over, the less it costs to see.
const HALF_AFTER: f64 = 10.0;

/// An exponentially weighted mean of the latencies of an endpoint's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    mean_ms: f64,
}

impl Latency {
    /// What was known so long ago, if anything was, and one more call. The longer ago, the less it weighs:
    /// one slow call would otherwise outweigh several quick ones that are seconds apart.
    pub(crate) fn with(before: Option<(Self, Duration)>, took: Duration) -> Self {
        let newest = took.as_secs_f64() * 1e3;
        let mean_ms = before.map_or(newest, |(before, since)| {
            let weight = (1.0 - NEWEST) * left_after(since, HALF_LIFE);
            before.mean_ms * weight + newest * (1.0 - weight)
        });
        Self { mean_ms }
    }

    pub(crate) fn mean_ms(self) -> f64 {
        self.mean_ms
    }

    /// What is still believed of it so long after the last call.
    pub(crate) fn believed_ms(self, since: Duration) -> f64 {
        let half_life = HALF_LIFE.min(Duration::from_secs_f64(HALF_AFTER * self.mean_ms.max(FLOOR_MS) / 1e3));
        self.mean_ms * left_after(since, half_life)
    }
}

fn left_after(since: Duration, half_life: Duration) -> f64 {
    (-since.as_secs_f64() / half_life.as_secs_f64()).exp2()
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
    /// Whether it is as good as the other one, or better.
    fn is_no_worse(&self, other: &Self, unmeasured_ms: f64) -> bool {
        let latency = |of: &Self| of.latency_ms.unwrap_or(unmeasured_ms).max(FLOOR_MS);
        let ratio = latency(self) / latency(other);
        let ratio = if (1.0 / ALIKE..=ALIKE).contains(&ratio) { 1.0 } else { ratio };
        (self.in_flight + 1) as f64 * ratio <= (other.in_flight + 1) as f64
    }

    /// Whether it is ready for so short a time that it leaves this draw to others.
    fn stands_back(&self, draw: f64) -> bool {
        draw >= (self.ready_for.as_secs_f64() / SLOW_START.as_secs_f64()).clamp(LEAST_SHARE, 1.0)
    }
}

/// The index of the chosen candidate; `draws` are three random numbers in [0, 1).
pub(crate) fn choose(candidates: &[Candidate], draws: [f64; 3]) -> Option<usize> {
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
    let first_is_better = match [first, second].map(|index| candidates[index].stands_back(draws[2])) {
        [true, false] => false,
        [false, true] => true,
        _ => candidates[first].is_no_worse(&candidates[second], mean),
    };
    Some(if first_is_better { first } else { second })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(in_flight: usize, latency_ms: impl Into<Option<f64>>) -> Candidate {
        Candidate { in_flight, latency_ms: latency_ms.into(), ready_for: Duration::from_mins(1) }
    }

    fn shares(candidates: &[Candidate]) -> Vec<f64> {
        let mut counts = vec![0.0; candidates.len()];
        let steps = 60;
        let draws = || (0..steps).map(|step| f64::from(step) / f64::from(steps));
        for first in draws() {
            for second in draws() {
                for third in draws() {
                    let chosen = choose(candidates, [first, second, third]).unwrap();
                    counts[chosen] += 1.0 / f64::from(steps * steps * steps);
                }
            }
        }
        counts
    }

    #[test]
    fn at_most_half_are_left_out_and_each_has_its_turn() {
        use Standing::{Doubtful, Refusing, Well};
        assert_eq!(eligible(&[Well, Refusing], 0), [0]);
        assert_eq!(eligible(&[Well, Refusing, Well, Refusing], 0), [0, 2]);
        assert_eq!(eligible(&[Refusing, Well, Refusing, Refusing], 0), [1, 0]);
        assert_eq!(eligible(&[Refusing, Well, Refusing, Refusing], 1), [1, 2]);
        assert_eq!(eligible(&[Refusing, Well, Doubtful, Refusing], 5), [1, 2], "probes count for less");
        assert_eq!(eligible(&[Doubtful, Doubtful, Refusing], 0), [0, 1], "they can all be wrong");
        assert_eq!(eligible(&[Doubtful, Refusing, Refusing, Refusing], 2), [0, 3]);
        for gone in [&[][..], &[Refusing], &[Refusing, Refusing, Refusing]] {
            assert_eq!(eligible(gone, 0), Vec::<usize>::new(), "it is the peer that is gone");
        }
    }

    proptest::proptest! {
        #[test]
        fn half_are_in_use_while_one_can_be_called(
            kinds in proptest::collection::vec(0..3_usize, 1..40), turn in 0..100_usize,
        ) {
            let kind = [Standing::Well, Standing::Doubtful, Standing::Refusing];
            let standings: Vec<_> = kinds.into_iter().map(|number| kind[number]).collect();
            let mut eligible = eligible(&standings, turn);
            let count = eligible.len();
            eligible.sort_unstable();
            eligible.dedup();
            proptest::prop_assert_eq!(eligible.len(), count, "one of them twice");
            if standings.iter().all(|standing| *standing == Standing::Refusing) {
                proptest::prop_assert_eq!(count, 0);
            } else {
                proptest::prop_assert!(2 * count >= standings.len());
                let well = |index: usize| standings[index] == Standing::Well;
                proptest::prop_assert!((0..standings.len()).all(|index| !well(index) || eligible.contains(&index)));
            }
        }
    }

    /// The original gave an undefined target after a removal.
    #[test]
    fn error_when_no_healthy_targets() {
        assert_eq!(choose(&[], [0.5; 3]), None);
        assert_eq!(choose(&[candidate(0, 1.0)], [0.999; 3]), Some(0));
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

    /// Of two equal ones the one that happened to be faster got all of fifty calls in a row.
    #[test]
    fn a_target_that_is_a_little_faster_does_not_get_everything() {
        for (slower, share) in [(5.0, 0.5), (7.4, 0.5), (7.6, 0.0)] {
            let shares = shares(&[candidate(0, slower), candidate(0, 5.0)]);
            assert!((shares[0] - share).abs() < 0.05, "{slower} ms: {shares:?}");
        }
        assert!(shares(&[candidate(1, 5.0), candidate(0, 6.0)])[1] > 0.99, "the one that is less busy");
    }

    /// The original sent everything to any target that had not been measured.
    #[test]
    fn a_target_without_measurements_does_not_get_everything() {
        let shares = shares(&[candidate(0, 5.0), candidate(0, None), candidate(0, 5.0)]);
        assert!((shares[1] - 1.0 / 3.0).abs() < 0.05, "{shares:?}");
    }

    #[test]
    fn the_newest_latency_weighs_a_fifth_and_half_is_believed_after_ten_times_itself_or_two_seconds() {
        let first = Latency::with(None, Duration::from_millis(10));
        let latency = Latency::with(Some((first, Duration::ZERO)), Duration::from_millis(20));
        assert!((latency.mean_ms() - 12.0).abs() < 1e-9, "{latency:?}");
        let slow = Latency::with(None, Duration::from_millis(900));
        for (of, millis, believed) in [
            (latency, 0, 12.0),
            (latency, 120, 6.0),
            (latency, 240, 3.0),
            (slow, 2_000, 450.0),
            (slow, 4_000, 225.0),
        ] {
            let left = of.believed_ms(Duration::from_millis(millis));
            assert!((left - believed).abs() < 1e-9, "{left} ms after {millis} ms");
        }
    }

    #[test]
    fn a_target_that_was_slow_once_is_tried_again() {
        let once_slow = Latency::with(None, Duration::from_millis(500));
        let after = |seconds| candidate(0, once_slow.believed_ms(Duration::from_secs(seconds)));
        assert!(shares(&[after(1), candidate(0, 5.0)])[1] > 0.99);
        assert!(shares(&[after(20), candidate(0, 5.0)])[0] > 0.5);
    }

    /// It went on being thought slow after twenty quick calls, and hardly got any.
    #[test]
    fn a_target_that_was_slow_once_is_believed_when_it_is_quick_again() {
        let slow = Latency::with(None, Duration::from_millis(500));
        let later = Some((slow, Duration::from_secs(20)));
        let quick = Latency::with(later, Duration::from_millis(2));
        assert!(quick.mean_ms() < 3.0, "{quick:?}");
    }

    #[test]
    fn a_target_that_just_became_ready_starts_slowly() {
        let after = |seconds| Candidate { ready_for: Duration::from_secs(seconds), ..candidate(0, 5.0) };
        for (seconds, least, most) in [(0, 0.04, 0.06), (5, 0.24, 0.26), (10, 0.49, 0.51)] {
            let share = shares(&[after(seconds), candidate(0, 5.0)])[0];
            assert!((least..=most).contains(&share), "{share} after {seconds} s");
        }
        assert!(shares(&[after(1), candidate(3, 5.0)])[1] > 0.8, "although it is idle");
        assert!(shares(&[after(9), candidate(3, 5.0)])[0] > 0.8);
        assert!(shares(&[after(0), after(0)])[0] > 0.45, "somebody has to");
    }
}
