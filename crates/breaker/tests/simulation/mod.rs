//! Many callers of one peer behind one breaker: what they and the peer do follows from a seed, the clock is set by
//! hand, and after each step the breaker is held against its model. A seed gives the same steps again.

mod model;
mod world;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use phase6_breaker::{Breaker, Outcome, Permit, Settings, state::State};
use phase6_live::Live;

use model::Model;
use world::{ByHand, Numbers, Rules, outcome};

/// When worlds begin, in nanoseconds: not at a whole second.
const START: u64 = 7 * 24 * 3_600_000_000_000 + 123_456_789;
/// So many more come at once than a half-open breaker lets through.
const CROWD: u64 = 3;

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub steps: u64,
    pub admitted: u64,
    pub refused: u64,
    /// Calls that a half-open breaker let through.
    pub probes: u64,
    pub opened: u64,
    pub closed: u64,
    pub edits: u64,
    /// What the breaker showed after each step, in one number.
    pub history: u64,
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.probes += other.probes;
        self.opened += other.opened;
        self.closed += other.closed;
        self.edits += other.edits;
        self.history = self.history.rotate_left(7) ^ other.history;
    }
}

struct Simulation {
    seed: u64,
    numbers: Numbers,
    rules: Rules,
    settings: Live<Settings>,
    clock: Arc<AtomicU64>,
    breaker: Breaker,
    model: Model,
    /// Calls that have not ended, by name.
    under_way: Vec<(u64, Permit)>,
    /// Of them those that the breaker let through while it said that it is half-open.
    probes: Vec<u64>,
    /// Of a hundred calls the peer fails so many.
    failing: u64,
    status: &'static str,
    sum: Sum,
    /// Whether to print what happens.
    tells: bool,
}

/// Lets the world of a seed go by. Panics with the seed where the breaker does not do as it has to.
pub fn simulate(seed: u64, tells: bool) -> Sum {
    let mut simulation = Simulation::new(seed, tells);
    for _ in 0..100 + seed % 1_500 {
        simulation.step();
        simulation.check();
    }
    simulation.finish();
    std::mem::take(&mut simulation.sum)
}

impl Simulation {
    fn new(seed: u64, tells: bool) -> Self {
        let mut numbers = Numbers(seed);
        let rules = Rules::of(&mut numbers);
        let settings = Live::new(rules.settings());
        let clock = Arc::new(AtomicU64::new(START));
        let by_hand = ByHand { state: Mutex::new(State::default()), clock: Arc::clone(&clock) };
        let breaker = Breaker::with_backend("peer", settings.clone(), by_hand);
        let (under_way, probes, failing) = (Vec::new(), Vec::new(), 10);
        let (status, model, sum) = ("closed", Model::new(), Sum::default());
        let mut simulation = Self {
            seed,
            numbers,
            rules,
            settings,
            clock,
            breaker,
            model,
            under_way,
            probes,
            failing,
            status,
            sum,
            tells,
        };
        simulation.check();
        simulation
    }

    fn step(&mut self) {
        match self.numbers.below(200) {
            0..70 => self.ask(),
            70..135 => self.end_one(),
            135..172 => self.pass_time(),
            172..176 => (0..self.rules.probes + CROWD).for_each(|_| self.ask()),
            176..186 => self.failing = [0, 0, 10, 30, 50, 90, 100][self.numbers.below(7) as usize],
            186..193 => self.edit(),
            // Callers go away, and with them what they would have told.
            193..196 => {
                let stay = self.numbers.below(1 + self.under_way.len() as u64) as usize;
                while self.under_way.len() > stay {
                    self.end(stay, Outcome::Cancelled);
                }
            }
            196..199 => {
                let back = self.numbers.time(Duration::from_mins(1));
                self.set_clock(self.shows().saturating_sub(back.as_nanos() as u64));
            }
            _ => {
                let back = self.numbers.time(Duration::from_hours(48));
                self.set_clock(self.shows().saturating_sub(back.as_nanos() as u64));
            }
        }
    }

    /// Somebody wants to call the peer.
    fn ask(&mut self) {
        let (call, before) = (self.sum.admitted + self.sum.refused, self.breaker.snapshot());
        let would_admit = self.breaker.would_admit();
        let answer = self.breaker.admit();
        let expected = self.model.admit(call, &self.rules);
        self.tell(format_args!("call {call}: {:?}", answer.as_ref().err()));
        assert_eq!(answer.as_ref().err().copied(), expected, "call {call}");
        assert_eq!(would_admit, answer.is_ok(), "what it said that it would do");
        // What follows from the model too, said by the breaker's own words alone.
        assert!(answer.is_ok() || before.status != "closed" || before.throttled, "closed refuses");
        assert!(answer.is_err() || before.status != "open", "open admits");
        match answer {
            Ok(permit) => {
                self.sum.admitted += 1;
                self.under_way.push((call, permit));
                if self.breaker.snapshot().status == "half-open" {
                    self.sum.probes += 1;
                    self.probes.push(call);
                    let (probes, most) = (self.probes.len() as u64, self.rules.probes);
                    assert!(probes <= most, "{probes} of {most} probes at once");
                }
            }
            Err(_) => self.sum.refused += 1,
        }
    }

    /// A call ends: often one of the last, sometimes one that began long ago.
    fn end_one(&mut self) {
        let count = self.under_way.len() as u64;
        if count > 0 {
            let among = if self.numbers.below(3) == 0 { count } else { count.min(4) };
            let chosen = count - 1 - self.numbers.below(among);
            let outcome = outcome(self.failing, &mut self.numbers);
            self.end(chosen as usize, outcome);
        }
    }

    fn end(&mut self, chosen: usize, outcome: Outcome) {
        let (call, permit) = self.under_way.remove(chosen);
        self.tell(format_args!("call {call} ends: {outcome:?}"));
        match outcome {
            Outcome::Cancelled => drop(permit),
            _ => permit.end(outcome),
        }
        self.model.end(call, outcome, &self.rules);
        self.probes.retain(|probe| *probe != call);
        self.check();
    }

    /// Often to the nanosecond at which something changes by itself, or the one before or after it.
    fn pass_time(&mut self) {
        let passed = match self.numbers.below(40) {
            0 => self.numbers.time(Duration::from_hours(2)),
            1..4 => self.numbers.time(Duration::from_mins(2)),
            4..25 => self.numbers.time(Duration::from_secs(1)),
            chosen => {
                let next = self.model.next(&self.rules);
                match chosen % 3 {
                    0 => next.saturating_sub(Duration::from_nanos(1)),
                    1 => next,
                    _ => next + Duration::from_nanos(1),
                }
            }
        };
        self.set_clock(self.shows() + passed.as_nanos() as u64);
    }

    /// A new policy: another one, or one value of another one.
    fn edit(&mut self) {
        let other = Rules::of(&mut self.numbers);
        self.rules = match self.numbers.below(6) {
            0 => Rules { percent: other.percent, ..self.rules },
            1 => Rules { minimum: other.minimum, ..self.rules },
            2 => Rules { window: other.window, ..self.rules },
            3 => Rules { open_for: other.open_for, ..self.rules },
            4 => Rules { probes: other.probes, ..self.rules },
            _ => other,
        };
        self.tell(format_args!("{:?}", self.rules));
        self.settings.set(self.rules.settings());
        self.sum.edits += 1;
    }

    /// Whatever has happened: once all callers are gone and the longest times are over, the peer is tried, by
    /// exactly as many as may, and believed. That the clock is set back to its beginning before changes nothing.
    fn finish(&mut self) {
        while !self.under_way.is_empty() {
            self.end(0, Outcome::Cancelled);
        }
        self.set_clock(0);
        self.check();
        let longest = Duration::from_hours(24).max(self.rules.open_for);
        self.set_clock(longest.as_nanos() as u64);
        self.check();
        let crowd = self.rules.probes + CROWD;
        let may = if self.status == "closed" { crowd } else { self.rules.probes - self.model.succeeded() };
        (0..crowd).for_each(|_| self.ask());
        assert_eq!(self.under_way.len() as u64, may, "calls at once after all");
        while !self.under_way.is_empty() {
            self.end(0, Outcome::Success);
        }
        assert_eq!(self.status, "closed", "every probe succeeded");
    }

    /// The breaker shows what its model does.
    fn check(&mut self) {
        self.model.clock(self.shows());
        let (shown, model) = (self.breaker.snapshot(), &self.model);
        assert_eq!(
            (shown.status, shown.throttled, shown.call_count, shown.failure_count, shown.rejected_count),
            (model.status(&self.rules), model.is_throttled(), model.calls, model.failures, model.rejected),
            "status, throttled, calls, failures, rejected"
        );
        assert_eq!(shown.last_failure_time.is_some(), shown.failure_count > 0);
        if shown.status != "half-open" {
            self.probes.clear();
        }
        if shown.status != self.status {
            self.status = shown.status;
            self.sum.opened += u64::from(shown.status == "open");
            self.sum.closed += u64::from(shown.status == "closed");
            self.tell(format_args!("is {}", shown.status));
        }
        self.sum.steps += 1;
        let seen = shown.status.len() as u64 ^ shown.rejected_count << 8 ^ shown.call_count << 24;
        self.sum.history = self.sum.history.rotate_left(7) ^ seen;
    }

    fn shows(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn set_clock(&self, shows: u64) {
        self.tell(format_args!("the clock shows {shows}"));
        self.clock.store(shows, Ordering::Relaxed);
    }

    #[allow(clippy::print_stdout, reason = "asked for, to see what a seed does")]
    fn tell(&self, what: std::fmt::Arguments<'_>) {
        if self.tells {
            println!("{}: {what}", self.sum.steps);
        }
    }
}

/// Tells where it ended before its time, for whoever replays it, be it that the breaker itself panicked.
impl Drop for Simulation {
    #[allow(clippy::print_stderr, reason = "a seed that nobody sees cannot be replayed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, step {}, {:?}", self.seed, self.sum.steps, self.rules);
            // Told to a breaker that panics, the end of these calls would end the process, and the seed be lost.
            self.under_way.drain(..).for_each(std::mem::forget);
        }
    }
}
