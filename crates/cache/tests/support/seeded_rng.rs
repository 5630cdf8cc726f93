//! Random numbers that follow from a seed, so that a simulation can be repeated.

#![allow(dead_code, reason = "each test uses a part of it")]

/// A linear congruential generator.
#[derive(Clone)]
pub struct SeededRng(pub u64);

impl SeededRng {
    /// Returns a number from 0 up to but not including `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Returns one of the choices, each with the same probability.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Returns true once in `n` calls on average.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
