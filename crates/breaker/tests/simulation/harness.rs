//! Runs the scenario of one seed: drives a breaker and its model through the same steps and compares them
//! after each one.

use std::{
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use phase6_breaker::{Breaker, Outcome, Permit, Settings, State, Status, state::StateMachine};
use phase6_live::Live;

use crate::{
    model::Model,
    scenario::{IntegerSettings, ManualClockBackend, SeededRng, random_outcome},
};

/// Clock reading at the start of a scenario, in nanoseconds; deliberately not a whole second.
const START_NS: u64 = 7 * 24 * 3_600_000_000_000 + 123_456_789;
/// Number of callers in a burst beyond the number of probes.
const EXCESS_CALLERS: u64 = 3;

/// Totals over the steps of one or more scenarios.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub steps: u64,
    pub admitted: u64,
    pub rejected: u64,
    /// Calls admitted while half-open.
    pub probes: u64,
    pub opened: u64,
    pub closed: u64,
    /// Changes of the settings.
    pub edits: u64,
    /// Hash over the breaker's snapshots after each step.
    pub history: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.admitted += other.admitted;
        self.rejected += other.rejected;
        self.probes += other.probes;
        self.opened += other.opened;
        self.closed += other.closed;
        self.edits += other.edits;
        self.history = self.history.rotate_left(7) ^ other.history;
    }
}

struct InFlight {
    call: u64,
    permit: Permit,
}

struct Harness {
    seed: u64,
    rng: SeededRng,
    settings: IntegerSettings,
    breaker_settings: Live<Settings>,
    clock: Arc<AtomicU64>,
    breaker: Breaker,
    model: Model,
    /// Calls that have not ended.
    in_flight: Vec<InFlight>,
    /// Calls in flight that were admitted while the breaker showed half-open.
    probes: Vec<u64>,
    /// Percentage of calls that the peer fails.
    failing_percent: u64,
    /// State after the previous step.
    state: State,
    summary: Summary,
    /// Prints every step.
    verbose: bool,
}

/// Runs the scenario of a seed. Panics, and prints the seed, where the breaker differs from its model.
pub fn simulate(seed: u64, verbose: bool) -> Summary {
    let mut harness = Harness::new(seed, verbose);
    for _ in 0..100 + seed % 1_500 {
        harness.step();
        harness.check();
    }
    harness.finish();
    std::mem::take(&mut harness.summary)
}

impl Harness {
    fn new(seed: u64, verbose: bool) -> Self {
        let mut rng = SeededRng(seed);
        let settings = IntegerSettings::random(&mut rng);
        let breaker_settings = Live::new(settings.to_settings());
        let clock = Arc::new(AtomicU64::new(START_NS));
        let backend =
            ManualClockBackend { machine: Mutex::new(StateMachine::default()), clock: Arc::clone(&clock) };
        let breaker = Breaker::with_backend("peer", breaker_settings.clone(), backend);
        let mut harness = Self {
            seed,
            rng,
            settings,
            breaker_settings,
            clock,
            breaker,
            model: Model::new(),
            in_flight: Vec::new(),
            probes: Vec::new(),
            failing_percent: 10,
            state: State::Closed,
            summary: Summary::default(),
            verbose,
        };
        harness.check();
        harness
    }

    fn step(&mut self) {
        match self.rng.below(200) {
            0..70 => self.start_call(),
            70..135 => self.end_random_call(),
            135..172 => self.pass_time(),
            172..176 => (0..self.settings.probes + EXCESS_CALLERS).for_each(|_| self.start_call()),
            176..186 => self.failing_percent = [0, 0, 10, 30, 50, 90, 100][self.rng.below(7) as usize],
            186..193 => self.edit_settings(),
            // Callers disconnect without an outcome.
            193..196 => {
                let remaining = self.rng.below(1 + self.in_flight.len() as u64) as usize;
                while self.in_flight.len() > remaining {
                    self.end_call(remaining, Outcome::Cancelled);
                }
            }
            196..199 => self.step_clock_back(Duration::from_mins(1)),
            _ => self.step_clock_back(Duration::from_hours(48)),
        }
    }

    fn start_call(&mut self) {
        let (call, before) = (self.summary.admitted + self.summary.rejected, self.breaker.snapshot());
        let would_admit = self.breaker.would_admit();
        let result = self.breaker.admit();
        let expected = self.model.admit(call, &self.settings);
        self.log(format_args!("call {call}: {:?}", result.as_ref().err()));
        assert_eq!(result.as_ref().err().copied(), expected, "call {call}");
        assert_eq!(would_admit, result.is_ok(), "would_admit and admit agree");
        // Follows from the model as well, but checked here against nothing but the breaker's own snapshot.
        assert!(result.is_ok() || before.status != State::Closed || before.throttled, "closed admits");
        assert!(result.is_err() || before.status != State::Open, "open rejects");
        match result {
            Ok(permit) => {
                self.summary.admitted += 1;
                self.in_flight.push(InFlight { call, permit });
                if self.breaker.snapshot().status == State::HalfOpen {
                    self.summary.probes += 1;
                    self.probes.push(call);
                    let (probes, limit) = (self.probes.len() as u64, self.settings.probes);
                    assert!(probes <= limit, "{probes} concurrent probes, limit {limit}");
                }
            }
            Err(_) => self.summary.rejected += 1,
        }
    }

    /// Ends a call: usually one of the last four, sometimes one admitted long ago.
    fn end_random_call(&mut self) {
        let count = self.in_flight.len() as u64;
        if count > 0 {
            let candidates = if self.rng.below(3) == 0 { count } else { count.min(4) };
            let index = count - 1 - self.rng.below(candidates);
            let outcome = random_outcome(self.failing_percent, &mut self.rng);
            self.end_call(index as usize, outcome);
        }
    }

    fn end_call(&mut self, index: usize, outcome: Outcome) {
        let InFlight { call, permit } = self.in_flight.remove(index);
        self.log(format_args!("call {call} ends: {outcome:?}"));
        match outcome {
            Outcome::Cancelled => drop(permit),
            _ => permit.record(outcome),
        }
        self.model.record(call, outcome, &self.settings);
        self.probes.retain(|probe| *probe != call);
        self.check();
    }

    /// Moves the clock forward, often to within one nanosecond of the next change that needs no call.
    fn pass_time(&mut self) {
        let elapsed = match self.rng.below(40) {
            0 => self.rng.duration(Duration::from_hours(2)),
            1..4 => self.rng.duration(Duration::from_mins(2)),
            4..25 => self.rng.duration(Duration::from_secs(1)),
            choice => {
                let next = self.model.until_next_change(&self.settings);
                match choice % 3 {
                    0 => next.saturating_sub(Duration::from_nanos(1)),
                    1 => next,
                    _ => next + Duration::from_nanos(1),
                }
            }
        };
        self.set_clock(self.clock_reading() + elapsed.as_nanos() as u64);
    }

    fn step_clock_back(&mut self, max: Duration) {
        let back = self.rng.duration(max);
        self.set_clock(self.clock_reading().saturating_sub(back.as_nanos() as u64));
    }

    /// Replaces one setting or all of them.
    fn edit_settings(&mut self) {
        let other = IntegerSettings::random(&mut self.rng);
        self.settings = match self.rng.below(6) {
            0 => IntegerSettings { failure_percent: other.failure_percent, ..self.settings },
            1 => IntegerSettings { minimum_calls: other.minimum_calls, ..self.settings },
            2 => IntegerSettings { window: other.window, ..self.settings },
            3 => IntegerSettings { open_for: other.open_for, ..self.settings },
            4 => IntegerSettings { probes: other.probes, ..self.settings },
            _ => other,
        };
        self.log(format_args!("{:?}", self.settings));
        self.breaker_settings.set(self.settings.to_settings());
        self.summary.edits += 1;
    }

    /// Checks that the breaker recovers from any history: once all callers are gone and the longest waits
    /// have passed, exactly the configured number of probes is admitted, and their success closes it. Setting
    /// the clock back to 0 before that changes nothing.
    fn finish(&mut self) {
        while !self.in_flight.is_empty() {
            self.end_call(0, Outcome::Cancelled);
        }
        self.set_clock(0);
        self.check();
        let longest_wait = Duration::from_hours(24).max(self.settings.open_for);
        self.set_clock(longest_wait.as_nanos() as u64);
        self.check();
        let burst = self.settings.probes + EXCESS_CALLERS;
        let expected = if self.state == State::Closed {
            burst
        } else {
            self.settings.probes - self.model.succeeded_probes()
        };
        (0..burst).for_each(|_| self.start_call());
        assert_eq!(self.in_flight.len() as u64, expected, "admitted calls of the final burst");
        while !self.in_flight.is_empty() {
            self.end_call(0, Outcome::Success);
        }
        assert_eq!(self.state, State::Closed, "every probe succeeded");
    }

    /// Compares the breaker with its model.
    fn check(&mut self) {
        self.model.set_clock(self.clock_reading());
        let (shown, model) = (self.breaker.snapshot(), &self.model);
        let status = Status { state: shown.status, throttled: shown.throttled };
        assert_eq!(status, model.status(&self.settings));
        assert_eq!(
            (shown.call_count, shown.failure_count, shown.rejected_count),
            (model.calls, model.failures, model.rejected),
            "calls, failures, rejected"
        );
        assert_eq!(shown.last_failure_time.is_some(), shown.failure_count > 0);
        if shown.status != State::HalfOpen {
            self.probes.clear();
        }
        if shown.status != self.state {
            self.state = shown.status;
            self.summary.opened += u64::from(shown.status == State::Open);
            self.summary.closed += u64::from(shown.status == State::Closed);
            self.log(format_args!("is {}", shown.status));
        }
        self.summary.steps += 1;
        let hash = shown.status as u64 ^ shown.rejected_count << 8 ^ shown.call_count << 24;
        self.summary.history = self.summary.history.rotate_left(7) ^ hash;
    }

    fn clock_reading(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn set_clock(&self, reading: u64) {
        self.log(format_args!("clock: {reading} ns"));
        self.clock.store(reading, Ordering::Relaxed);
    }

    #[allow(clippy::print_stdout, reason = "printed on request, to follow the steps of one seed")]
    fn log(&self, message: std::fmt::Arguments<'_>) {
        if self.verbose {
            println!("{}: {message}", self.summary.steps);
        }
    }
}

/// Prints the seed and step of a failure, including a panic inside the breaker.
impl Drop for Harness {
    #[allow(clippy::print_stderr, reason = "a failure cannot be replayed without its seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, step {}, {:?}", self.seed, self.summary.steps, self.settings);
            // Dropping the permits could panic again inside a broken breaker, which would abort the process.
            self.in_flight.drain(..).for_each(|call| {
                let _undropped = ManuallyDrop::new(call);
            });
        }
    }
}
