//! What a world is like, and which one follows from a seed.

/// Numbers that follow from a seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What the replicas and the network are like.
#[derive(Clone, Debug)]
pub struct World {
    pub seed: u64,
    pub replicas: u32,
    pub capacity: i64,
    pub rate: f64,
    /// Requests per second of all replicas together.
    pub demand: u64,
    /// Longest time of a message, one way.
    pub delay_ms: u64,
    /// Requests come to a replica for about so many milliseconds, and then for as long they do not; 0: always.
    pub burst_ms: u64,
    /// Of a hundred messages, so many are lost, or come when nobody waits for them any more.
    pub lost: u64,
    /// Of a thousand milliseconds, a replica is gone and another one comes at so many.
    pub crashes: u64,
    /// Of a thousand milliseconds, the limit is edited at so many.
    pub edits: u64,
    /// Each replica hears of an edit by itself, within so many milliseconds.
    pub heard_ms: u64,
    /// Of ten thousand milliseconds, the clock of the shared state steps back at so many, by up to a minute.
    pub steps: u64,
    /// Replicas lose the shared state for a time.
    pub cut: Option<Cut>,
    pub seconds: u64,
}

/// Replicas cannot reach the shared state.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub from_ms: u64,
    pub for_ms: u64,
    /// It happens again so many milliseconds after all have noticed that it is over; 0: once. Those who never
    /// notice would be cut off while others are not, which is another case.
    pub again_ms: u64,
    /// So many milliseconds after the first replica the others notice that it is back.
    pub noticed_ms: u64,
    /// Of a hundred replicas, so many are cut off.
    pub percent: u64,
    /// It comes back empty.
    pub forgets: bool,
    /// After a quarter of the time nobody comes any more, so that all shares are full in the end.
    pub quiet: bool,
}

impl World {
    /// One of many worlds. Every second one has outages, and none of what hides their effects.
    pub fn of(seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let mut one_of = |ends: std::ops::Range<u64>| ends.start + numbers.below(ends.end - ends.start);
        let replicas = one_of(1..12) as u32;
        let has_outages = seed % 2 == 1;
        let cut = Cut {
            from_ms: one_of(0..2_000),
            for_ms: one_of(1..3_000),
            again_ms: if one_of(0..2) == 0 { 0 } else { one_of(200..3_000) },
            noticed_ms: one_of(1..600),
            percent: if one_of(0..4) > 0 { 100 } else { one_of(10..100) },
            forgets: one_of(0..4) == 0,
            quiet: one_of(0..2) == 0,
        };
        // A limit below the number of replicas cannot be divided among them.
        let least = if has_outages { i64::from(2 * replicas) } else { 1 };
        let mut befalls = |ends: std::ops::Range<u64>, otherwise: bool| {
            let number = one_of(ends);
            if has_outages && !otherwise || one_of(0..2) == 0 { 0 } else { number }
        };
        let (lost, crashes) = (befalls(0..40, true), befalls(0..20, false));
        let (edits, steps) = (befalls(0..20, true), befalls(0..50, false));
        // Where shares are whole and drain slowly, nothing is lost in rounding, and bounds are met closely.
        let is_close = one_of(0..2) == 0;
        let (most, fastest) = if is_close { (12, 20) } else { (400, 500) };
        let capacity = (one_of(1..most) as i64) * if is_close { i64::from(replicas) } else { 1 };
        Self {
            seed,
            replicas,
            capacity: capacity.max(least),
            rate: one_of(1..fastest) as f64,
            demand: one_of(10..20_000),
            delay_ms: one_of(1..30),
            burst_ms: one_of(0..1_500),
            lost,
            crashes,
            edits,
            heard_ms: if seed % 4 < 2 { 0 } else { one_of(1..800) },
            steps,
            cut: has_outages.then_some(cut),
            seconds: 6,
        }
    }
}
