//! What follows from a seed: the rules of a breaker, how the peer is, and a clock that is set by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use phase6_breaker::{
    Backend, Outcome, Phase, Refused, Settings,
    state::{Admission, State},
};

/// Numbers that follow from a seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Two numbers of 31 bits are one of 62.
    fn wide_below(&mut self, end: u64) -> u64 {
        (self.below(1 << 31) << 31 | self.below(1 << 31)) % end
    }

    /// A time up to this one, to the nanosecond.
    pub fn time(&mut self, longest: Duration) -> Duration {
        Duration::from_nanos(self.wide_below(longest.as_nanos() as u64 + 1))
    }
}

/// What a policy says, in whole numbers.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Of a hundred calls so many fail when it opens.
    pub percent: u64,
    pub minimum: u64,
    pub window: Duration,
    pub open_for: Duration,
    pub probes: u64,
}

impl Rules {
    pub fn of(numbers: &mut Numbers) -> Self {
        let most = if numbers.below(3) == 0 { 60 } else { 6 };
        Self {
            percent: 1 + numbers.below(100),
            minimum: 1 + numbers.below(most),
            window: Duration::from_millis(match numbers.below(4) {
                0 => 600_000,
                1 => 1_000 + numbers.below(3_000),
                _ => 5_000 + numbers.below(60_000),
            }),
            open_for: Duration::from_millis(100 + numbers.below(60_000)),
            probes: 1 + numbers.below(6),
        }
    }

    pub fn settings(&self) -> Settings {
        Settings {
            // The number that `0.07` in a document is.
            failure_ratio: self.percent as f64 / 100.0,
            minimum_calls: self.minimum as u32,
            window: self.window,
            open_for: self.open_for,
            half_open_probes: self.probes as u32,
        }
    }
}

/// What a call comes to at a peer that fails so many of a hundred.
pub fn outcome(failing: u64, numbers: &mut Numbers) -> Outcome {
    match numbers.below(100) {
        0..6 => Outcome::Cancelled,
        6..9 => Outcome::Throttled(match numbers.below(8) {
            0 => None,
            1 => Some(Duration::from_hours(numbers.below(100))),
            _ => Some(numbers.time(Duration::from_secs(10))),
        }),
        _ if numbers.below(100) < failing => Outcome::Failure,
        _ => Outcome::Success,
    }
}

/// State under a clock that is set by hand.
pub struct ByHand {
    pub state: Mutex<State>,
    pub clock: Arc<AtomicU64>,
}

impl ByHand {
    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }
}

impl Backend for ByHand {
    fn admit(&self, settings: &Settings) -> Result<Admission, Refused> {
        self.state.lock().admit(settings, self.now())
    }

    fn record(&self, admission: Admission, outcome: Outcome, settings: &Settings) {
        self.state.lock().record(admission, outcome, settings, self.now());
    }

    fn would_admit(&self, settings: &Settings) -> bool {
        self.state.lock().would_admit(settings, self.now())
    }

    fn phase(&self, settings: &Settings) -> (Phase, bool) {
        let mut state = self.state.lock();
        (state.phase(settings, self.now()), state.throttled_for(self.now()).is_some())
    }
}
