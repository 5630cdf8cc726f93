//! The parameters of a simulation, and how they derive from a seed.

/// A linear congruential generator: the same seed gives the same numbers on every machine.
pub struct SeededRng(pub u64);

impl SeededRng {
    /// Returns the next number, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The replicas, their load, the network and the faults.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub replicas: u32,
    pub capacity: i64,
    /// Refill rate in tokens per second.
    pub rate: f64,
    /// Requests per second to all replicas together.
    pub demand: u64,
    /// Maximum one-way delay of a message, in milliseconds.
    pub delay_ms: u64,
    /// Duration of the bursts and pauses in which requests arrive at a replica, in milliseconds; 0 for a
    /// constant load.
    pub burst_ms: u64,
    /// Percentage of messages that are lost or arrive after the sender has stopped waiting.
    pub lost_percent: u64,
    /// Expected number of replicas that crash and are replaced per second.
    pub crashes_per_second: u64,
    /// Expected number of edits of the limit per second.
    pub edits_per_second: u64,
    /// Maximum time until a replica learns of an edit, in milliseconds. Each learns of it on its own.
    pub edit_delay_ms: u64,
    /// Expected number of times per ten seconds that the clock of the shared state steps back, by up to a
    /// minute.
    pub clock_steps_per_ten_seconds: u64,
    /// Outage of the shared state.
    pub outage: Option<Outage>,
    /// Duration of the simulation, in seconds.
    pub seconds: u64,
}

/// A time in which replicas cannot reach the shared state.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    pub start_ms: u64,
    pub duration_ms: u64,
    /// Time from the detection of the end by all replicas to the next outage, in milliseconds; 0 for a single
    /// outage. If some replicas never detected the end, they would stay disconnected while others are not,
    /// which is a different case: `percent`.
    pub repeat_after_ms: u64,
    /// Time until the other replicas detect the end after the first one, in milliseconds.
    pub detection_ms: u64,
    /// Percentage of replicas that are disconnected.
    pub percent: u64,
    /// True if the shared state is empty after the outage.
    pub loses_state: bool,
    /// True if no request arrives after the first quarter of the outage, so that every share is full at its
    /// end.
    pub without_requests: bool,
}

impl Scenario {
    /// Derives a scenario from a seed. Every second one has outages, and no faults that hide the effects of
    /// those.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = SeededRng(seed);
        let mut one_of = |range: std::ops::Range<u64>| range.start + rng.below(range.end - range.start);
        let replicas = one_of(1..12) as u32;
        let has_outages = seed % 2 == 1;
        let outage = Outage {
            start_ms: one_of(0..2_000),
            duration_ms: one_of(1..3_000),
            repeat_after_ms: if one_of(0..2) == 0 { 0 } else { one_of(200..3_000) },
            detection_ms: one_of(1..600),
            percent: if one_of(0..4) > 0 { 100 } else { one_of(10..100) },
            loses_state: one_of(0..4) == 0,
            without_requests: one_of(0..2) == 0,
        };
        // A limit below the number of replicas cannot be divided among them.
        let min_capacity = if has_outages { i64::from(2 * replicas) } else { 1 };
        let mut fault = |range: std::ops::Range<u64>, occurs_with_outages: bool| {
            let frequency = one_of(range);
            if has_outages && !occurs_with_outages || one_of(0..2) == 0 { 0 } else { frequency }
        };
        let (lost_percent, crashes_per_second) = (fault(0..40, true), fault(0..20, false));
        let (edits_per_second, clock_steps_per_ten_seconds) = (fault(0..20, true), fault(0..50, false));
        // Shares that are whole numbers and drain slowly lose nothing to rounding, so the bounds are nearly
        // reached.
        let is_exact = one_of(0..2) == 0;
        let (max_capacity, max_rate) = if is_exact { (12, 20) } else { (400, 500) };
        let capacity = (one_of(1..max_capacity) as i64) * if is_exact { i64::from(replicas) } else { 1 };
        Self {
            seed,
            replicas,
            capacity: capacity.max(min_capacity),
            rate: one_of(1..max_rate) as f64,
            demand: one_of(10..20_000),
            delay_ms: one_of(1..30),
            burst_ms: one_of(0..1_500),
            lost_percent,
            crashes_per_second,
            edits_per_second,
            edit_delay_ms: if seed % 4 < 2 { 0 } else { one_of(1..800) },
            clock_steps_per_ten_seconds,
            outage: has_outages.then_some(outage),
            seconds: 6,
        }
    }
}
