//! What a world is like, which one follows from a seed, and what came of it.

use crate::numbers::Numbers;

/// What the replicas and the network are like.
#[derive(Clone, Debug)]
pub struct World {
    pub seed: u64,
    pub replicas: u64,
    /// Longest time of a message, one way.
    pub delay_ms: u64,
    /// Longest time in which the answer is made.
    pub makes_ms: u64,
    /// Of a thousand milliseconds, somebody asks a replica at so many.
    pub demand: u64,
    /// Of a thousand messages, so many are lost, with their effect or only their reply.
    pub lost: u64,
    /// Of ten thousand milliseconds, a replica dies and another one comes at so many; a replica loses touch with
    /// the log; the answer is forgotten.
    pub crashes: u64,
    pub deaf: u64,
    pub forgets: u64,
    pub is_shareable: bool,
    pub seconds: u64,
}

impl World {
    /// One of many worlds: in every third nothing goes wrong.
    pub fn of(seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let mut one_of = |ends: std::ops::Range<u64>| ends.start + numbers.below(ends.end - ends.start);
        let is_calm = seed.is_multiple_of(3);
        let (replicas, delay_ms) = (one_of(1..12), one_of(1..12));
        let makes_ms = if one_of(0..3) == 0 { one_of(1_000..9_000) } else { one_of(1..400) };
        let demand = if one_of(0..2) == 0 { 900 } else { one_of(1..300) };
        let mut befalls = |most: u64| {
            let number = one_of(0..most);
            if is_calm || one_of(0..2) == 0 { 0 } else { number }
        };
        let (lost, crashes, deaf) = (befalls(60), befalls(20), befalls(20));
        let forgets = befalls(30);
        let is_shareable = one_of(0..5) > 0;
        Self {
            seed,
            replicas,
            delay_ms,
            makes_ms,
            demand,
            lost,
            crashes,
            deaf,
            forgets,
            is_shareable,
            seconds: 20,
        }
    }
}

/// What came of some worlds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub steps: u64,
    /// Times that the answer was made, and that one was waited for.
    pub made: u64,
    pub waited: u64,
    pub faults: u64,
    /// What was done at each step, in one number.
    pub history: u64,
}

impl std::ops::Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            made: self.made + other.made,
            waited: self.waited + other.waited,
            faults: self.faults + other.faults,
            history: self.history.rotate_left(7) ^ other.history,
        }
    }
}
