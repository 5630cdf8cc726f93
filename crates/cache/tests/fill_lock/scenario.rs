//! Conditions of a simulation, which follow from its seed, and the summary of what happened.

use crate::seeded_rng::SeededRng;

/// Replicas, network and faults of one simulation.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub replicas: u64,
    /// Longest one-way delay of a message, in milliseconds.
    pub max_delay_ms: u64,
    /// Longest duration of a fetch, in milliseconds.
    pub max_fetch_ms: u64,
    /// Requests to each replica per 1,000 milliseconds.
    pub requests_per_1_000_ms: u64,
    /// Lost messages per 1,000; either the message itself or only its reply.
    pub losses_per_1_000: u64,
    /// Replicas that die, and are replaced, per 10,000 milliseconds.
    pub crashes_per_10_000_ms: u64,
    /// Replicas that lose the log, per 10,000 milliseconds.
    pub log_losses_per_10_000_ms: u64,
    /// Invalidations of the response, per 10,000 milliseconds.
    pub invalidations_per_10_000_ms: u64,
    /// True if the response may be stored for other replicas.
    pub is_shareable: bool,
    /// Length of the simulation in seconds.
    pub seconds: u64,
}

impl Scenario {
    /// Returns the scenario of a seed. Nothing goes wrong in every third one.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = SeededRng(seed);
        let mut in_range = |range: std::ops::Range<u64>| range.start + rng.below(range.end - range.start);
        let is_calm = seed.is_multiple_of(3);
        let (replicas, max_delay_ms) = (in_range(1..12), in_range(1..12));
        let max_fetch_ms = if in_range(0..3) == 0 { in_range(1_000..9_000) } else { in_range(1..400) };
        let requests_per_1_000_ms = if in_range(0..2) == 0 { 900 } else { in_range(1..300) };
        let mut fault_rate = |end: u64| {
            let rate = in_range(0..end);
            if is_calm || in_range(0..2) == 0 { 0 } else { rate }
        };
        let losses_per_1_000 = fault_rate(60);
        let crashes_per_10_000_ms = fault_rate(20);
        let log_losses_per_10_000_ms = fault_rate(20);
        let invalidations_per_10_000_ms = fault_rate(30);
        let is_shareable = in_range(0..5) > 0;
        Self {
            seed,
            replicas,
            max_delay_ms,
            max_fetch_ms,
            requests_per_1_000_ms,
            losses_per_1_000,
            crashes_per_10_000_ms,
            log_losses_per_10_000_ms,
            invalidations_per_10_000_ms,
            is_shareable,
            seconds: 20,
        }
    }

    /// Returns true if no message is lost, no replica dies and none loses the log.
    pub fn is_reliable(&self) -> bool {
        self.losses_per_1_000 + self.crashes_per_10_000_ms + self.log_losses_per_10_000_ms == 0
    }

    /// Returns true if nothing goes wrong at all.
    pub fn is_calm(&self) -> bool {
        self.is_reliable() && self.invalidations_per_10_000_ms == 0
    }
}

/// Summary of one or more simulations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Messages that arrived.
    pub steps: u64,
    /// Fetches of the response.
    pub fetches: u64,
    /// Waits for another replica's fetch.
    pub waits: u64,
    /// Faults that occurred.
    pub faults: u64,
    /// Hash of the state at every step.
    pub fingerprint: u64,
}

impl std::ops::Add for Summary {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            fetches: self.fetches + other.fetches,
            waits: self.waits + other.waits,
            faults: self.faults + other.faults,
            fingerprint: self.fingerprint.rotate_left(7) ^ other.fingerprint,
        }
    }
}
