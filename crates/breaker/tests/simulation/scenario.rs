//! Everything that a seed determines: the breaker's settings, the peer's behavior, and a manual clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use phase6_breaker::{
    Backend, Outcome, Rejection, Settings, Status,
    state::{Admission, StateMachine},
};

/// Deterministic random number generator.
pub struct SeededRng(pub u64);

impl SeededRng {
    /// Returns a number below `end`; `end` is at most 2^31.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Returns a number below `end`; `end` is at most 2^62.
    fn wide_below(&mut self, end: u64) -> u64 {
        (self.below(1 << 31) << 31 | self.below(1 << 31)) % end
    }

    /// Returns a duration from 0 to `max`, to the nanosecond.
    pub fn duration(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.wide_below(max.as_nanos() as u64 + 1))
    }
}

/// Breaker settings in whole numbers, so that the model needs no floating point.
#[derive(Clone, Copy, Debug)]
pub struct IntegerSettings {
    /// Percentage of failed calls at which the breaker opens.
    pub failure_percent: u64,
    pub minimum_calls: u64,
    pub window: Duration,
    pub open_for: Duration,
    pub probes: u64,
}

impl IntegerSettings {
    pub fn random(rng: &mut SeededRng) -> Self {
        let max_minimum_calls = if rng.below(3) == 0 { 60 } else { 6 };
        Self {
            failure_percent: 1 + rng.below(100),
            minimum_calls: 1 + rng.below(max_minimum_calls),
            window: Duration::from_millis(match rng.below(4) {
                0 => 600_000,
                1 => 1_000 + rng.below(3_000),
                _ => 5_000 + rng.below(60_000),
            }),
            open_for: Duration::from_millis(100 + rng.below(60_000)),
            probes: 1 + rng.below(6),
        }
    }

    pub fn to_settings(self) -> Settings {
        Settings {
            // Equals the float that a policy document with a decimal fraction, such as `0.07`, parses to.
            failure_ratio: self.failure_percent as f64 / 100.0,
            minimum_calls: self.minimum_calls as u32,
            window: self.window,
            open_for: self.open_for,
            half_open_probes: self.probes as u32,
        }
    }
}

/// Draws the outcome of a call to a peer that fails `failing_percent` of its calls.
pub fn random_outcome(failing_percent: u64, rng: &mut SeededRng) -> Outcome {
    match rng.below(100) {
        0..6 => Outcome::Cancelled,
        6..9 => Outcome::Throttled {
            retry_after: match rng.below(8) {
                0 => None,
                1 => Some(Duration::from_hours(rng.below(100))),
                _ => Some(rng.duration(Duration::from_secs(10))),
            },
        },
        _ if rng.below(100) < failing_percent => Outcome::Failure,
        _ => Outcome::Success,
    }
}

/// A backend whose clock the test sets.
pub struct ManualClockBackend {
    pub machine: Mutex<StateMachine>,
    /// Clock reading in nanoseconds.
    pub clock: Arc<AtomicU64>,
}

impl ManualClockBackend {
    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }
}

impl Backend for ManualClockBackend {
    fn admit(&self, settings: &Settings) -> Result<Admission, Rejection> {
        self.machine.lock().admit(settings, self.now())
    }

    fn record(&self, admission: Admission, outcome: Outcome, settings: &Settings) {
        self.machine.lock().record(admission, outcome, settings, self.now());
    }

    fn would_admit(&self, settings: &Settings) -> bool {
        self.machine.lock().would_admit(settings, self.now())
    }

    fn status(&self, settings: &Settings) -> Status {
        let mut machine = self.machine.lock();
        Status {
            state: machine.state(settings, self.now()),
            throttled: machine.throttled_for(self.now()).is_some(),
        }
    }
}
