//! The machine behind a breaker. Does no I/O and reads no clock.
//!
//! Guarantees:
//!
//! * A closed machine refuses nobody, and opens when a call fails and with it the share of failed calls in the
//!   window is reached.
//! * An open machine admits nobody before its time. Time is what the clock goes forward: a step back delays
//!   nothing.
//! * A half-open machine admits exactly the configured number of probes until it closes or opens
//!   again, whatever the concurrency.
//! * The result of a call begun in an earlier phase changes nothing but how long the peer asked to wait.
//! * Settings are not stored: a shorter `open_for` or another ratio acts on the next call, with
//!   the history there is.

use std::{collections::VecDeque, time::Duration};

/// Calls are counted in slots of this width, so a window is exact to a quarter second.
const SLOT_NS: u64 = 250_000_000;
/// Longest window that a policy may ask for; older slots are forgotten.
const LONGEST_WINDOW_SLOTS: u64 = 600 * 4;
/// How long to hold back after a 429 that does not say.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(1);
/// Longest time that a 429 may hold calls back.
const LONGEST_THROTTLE: Duration = Duration::from_hours(24);

/// What a machine is held against at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Share of failed calls at which it opens.
    pub failure_ratio: f64,
    /// Calls that must lie in the window before the ratio counts.
    pub minimum_calls: u32,
    /// Length of the sliding window.
    pub window: Duration,
    /// How long an open machine refuses.
    pub open_for: Duration,
    /// Calls that a half-open machine lets through.
    pub half_open_probes: u32,
}

impl From<&phase6_policy::CircuitBreaker> for Settings {
    fn from(policy: &phase6_policy::CircuitBreaker) -> Self {
        Self {
            failure_ratio: policy.failure_ratio,
            minimum_calls: policy.minimum_calls.max(1) as u32,
            window: policy.window.get(),
            open_for: policy.open_for.get(),
            half_open_probes: policy.half_open_probes.max(1) as u32,
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer answered, be it with a complaint about the caller.
    Success,
    /// Connection error, time-out or 5xx.
    Failure,
    /// The peer asked to wait, for this long if it said.
    Throttled(Option<Duration>),
    /// The caller gave up before it knew.
    Cancelled,
}

/// Where the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Lets through.
    Closed,
    /// Refuses.
    Open,
    /// Probes.
    HalfOpen,
}

impl Phase {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// A call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The peer failed too often lately.
    #[error("circuit breaker open, retry in {} ms", retry_after.as_millis())]
    Open {
        /// Time until it probes.
        retry_after: Duration,
    },
    /// All probes are on their way.
    #[error("circuit breaker half-open and probing")]
    Probing,
    /// The peer asked to wait.
    #[error("peer asked to wait, retry in {} ms", retry_after.as_millis())]
    Throttled {
        /// Rest of the time that it asked for.
        retry_after: Duration,
    },
}

impl Refused {
    /// When to try again.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Open { retry_after } | Self::Throttled { retry_after } => *retry_after,
            Self::Probing => Duration::from_secs(1),
        }
    }
}

/// The right to one call, to be given back to [`State::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an admitted call must be recorded"]
pub struct Admission {
    generation: u64,
}

/// The machine. Starts closed.
#[derive(Clone, Debug, Default)]
pub struct State {
    phase: Current,
    /// Grows with every change of phase.
    generation: u64,
    slots: VecDeque<Slot>,
    throttled_until_ns: u64,
    /// What the clock showed last.
    clock_ns: u64,
    /// By how much it has stepped back in all.
    stepped_back_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Current {
    #[default]
    Closed,
    Open {
        since_ns: u64,
    },
    HalfOpen {
        granted: u32,
        succeeded: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u64,
    calls: u32,
    failures: u32,
}

impl State {
    /// Asks for one call when the clock shows `now_ns`.
    ///
    /// # Errors
    ///
    /// The call is refused and when to ask again.
    pub fn admit(&mut self, settings: &Settings, now_ns: u64) -> Result<Admission, Refused> {
        let now_ns = self.time(now_ns);
        if now_ns < self.throttled_until_ns {
            let retry_after = Duration::from_nanos(self.throttled_until_ns - now_ns);
            return Err(Refused::Throttled { retry_after });
        }
        // open -> half-open
        if let Current::Open { since_ns } = self.phase {
            let open_for = settings.open_for.as_nanos() as u64;
            let elapsed = now_ns.saturating_sub(since_ns);
            if elapsed < open_for {
                return Err(Refused::Open { retry_after: Duration::from_nanos(open_for - elapsed) });
            }
            self.enter(Current::HalfOpen { granted: 0, succeeded: 0 });
        }
        self.settle(settings);
        if let Current::HalfOpen { granted, .. } = &mut self.phase {
            if *granted >= settings.half_open_probes {
                return Err(Refused::Probing);
            }
            *granted += 1;
        }
        Ok(Admission { generation: self.generation })
    }

    /// Tells how an admitted call ended.
    pub fn record(&mut self, admission: Admission, outcome: Outcome, settings: &Settings, now_ns: u64) {
        let now_ns = self.time(now_ns);
        if let Outcome::Throttled(wait) = outcome {
            let wait = wait.unwrap_or(DEFAULT_THROTTLE).min(LONGEST_THROTTLE);
            self.throttled_until_ns = self.throttled_until_ns.max(now_ns + wait.as_nanos() as u64);
        }
        self.settle(settings);
        if admission.generation != self.generation {
            return;
        }
        let failed = outcome == Outcome::Failure;
        match &mut self.phase {
            // closed -> open
            Current::Closed => {
                if outcome != Outcome::Cancelled {
                    self.count(failed, now_ns);
                }
                if failed && self.too_many_failures(settings, now_ns) {
                    self.enter(Current::Open { since_ns: now_ns });
                }
            }
            // half-open -> open | closed
            Current::HalfOpen { granted, succeeded } => match outcome {
                Outcome::Failure => self.enter(Current::Open { since_ns: now_ns }),
                Outcome::Cancelled => *granted = granted.saturating_sub(1),
                Outcome::Success | Outcome::Throttled(_) => {
                    *succeeded += 1;
                    self.settle(settings);
                }
            },
            Current::Open { .. } => {}
        }
    }

    /// Where it stands when the clock shows `now_ns`. An open machine whose time is over reads as half-open.
    pub fn phase(&mut self, settings: &Settings, now_ns: u64) -> Phase {
        let now_ns = self.time(now_ns);
        match self.phase {
            Current::Closed => Phase::Closed,
            Current::HalfOpen { succeeded, .. } if succeeded >= settings.half_open_probes => Phase::Closed,
            Current::HalfOpen { .. } => Phase::HalfOpen,
            Current::Open { since_ns } => {
                let over = now_ns.saturating_sub(since_ns) >= settings.open_for.as_nanos() as u64;
                if over { Phase::HalfOpen } else { Phase::Open }
            }
        }
    }

    /// Whether a call would be admitted when the clock shows `now_ns`; takes no place.
    pub fn would_admit(&mut self, settings: &Settings, now_ns: u64) -> bool {
        self.throttled_for(now_ns).is_none()
            && match self.phase(settings, now_ns) {
                Phase::Closed => true,
                Phase::Open => false,
                Phase::HalfOpen => match self.phase {
                    Current::HalfOpen { granted, .. } => granted < settings.half_open_probes,
                    _ => true,
                },
            }
    }

    /// Rest of the time that the peer asked to wait.
    pub fn throttled_for(&mut self, now_ns: u64) -> Option<Duration> {
        let now_ns = self.time(now_ns);
        (now_ns < self.throttled_until_ns).then(|| Duration::from_nanos(self.throttled_until_ns - now_ns))
    }

    /// What the clock has gone forward. A step back is no time, or what waits for a moment would wait that much
    /// longer.
    fn time(&mut self, now_ns: u64) -> u64 {
        if now_ns < self.clock_ns {
            self.stepped_back_ns += self.clock_ns - now_ns;
        }
        self.clock_ns = now_ns;
        now_ns + self.stepped_back_ns
    }

    /// half-open -> closed. Also when a policy asks for fewer probes than have succeeded already: no
    /// probe may be left on its way that could say so.
    fn settle(&mut self, settings: &Settings) {
        if let Current::HalfOpen { succeeded, .. } = self.phase
            && succeeded >= settings.half_open_probes
        {
            self.slots.clear();
            self.enter(Current::Closed);
        }
    }

    fn enter(&mut self, phase: Current) {
        self.phase = phase;
        self.generation += 1;
    }

    fn count(&mut self, failed: bool, now_ns: u64) {
        let number = now_ns / SLOT_NS;
        match self.slots.back_mut() {
            Some(slot) if slot.number == number => {
                slot.calls = slot.calls.saturating_add(1);
                slot.failures = slot.failures.saturating_add(u32::from(failed));
            }
            _ => self.slots.push_back(Slot { number, calls: 1, failures: u32::from(failed) }),
        }
        while self.slots.front().is_some_and(|slot| number - slot.number > LONGEST_WINDOW_SLOTS) {
            self.slots.pop_front();
        }
    }

    fn too_many_failures(&self, settings: &Settings, now_ns: u64) -> bool {
        let oldest = now_ns.saturating_sub(settings.window.as_nanos() as u64) / SLOT_NS;
        let (mut calls, mut failures) = (0_u64, 0_u64);
        for slot in self.slots.iter().rev().take_while(|slot| slot.number >= oldest) {
            calls += u64::from(slot.calls);
            failures += u64::from(slot.failures);
        }
        // A product could be a little more than the whole number that it stands for: 0.55 * 20 > 11.
        calls >= u64::from(settings.minimum_calls) && failures as f64 / calls as f64 >= settings.failure_ratio
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn settings() -> Settings {
        Settings {
            failure_ratio: 0.5,
            minimum_calls: 4,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(30),
            half_open_probes: 2,
        }
    }

    fn call(state: &mut State, outcome: Outcome, now: u64) {
        let admission = state.admit(&settings(), now).expect("admitted");
        state.record(admission, outcome, &settings(), now);
    }

    fn opened_at(now: u64) -> State {
        let mut state = State::default();
        for _ in 0..4 {
            call(&mut state, Outcome::Failure, now);
        }
        assert_eq!(state.phase(&settings(), now), Phase::Open);
        state
    }

    #[test]
    fn opens_at_the_ratio_and_not_before_the_minimum() {
        let mut state = State::default();
        for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success] {
            call(&mut state, outcome, SECOND);
        }
        assert_eq!(state.phase(&settings(), SECOND), Phase::Closed, "three calls are too few to judge");
        call(&mut state, Outcome::Failure, SECOND);
        assert_eq!(state.phase(&settings(), SECOND), Phase::Open);
    }

    /// The original counted consecutive failures only, so that every second call could fail.
    #[test]
    fn half_of_the_calls_failing_opens_it() {
        let mut state = State::default();
        for i in 0..4 {
            call(&mut state, if i % 2 == 0 { Outcome::Success } else { Outcome::Failure }, SECOND);
        }
        assert_eq!(state.phase(&settings(), SECOND), Phase::Open);
    }

    #[test]
    fn calls_outside_the_window_do_not_count() {
        let mut state = State::default();
        for _ in 0..3 {
            call(&mut state, Outcome::Failure, SECOND);
        }
        call(&mut state, Outcome::Failure, 20 * SECOND);
        assert_eq!(state.phase(&settings(), 20 * SECOND), Phase::Closed);
    }

    #[test]
    fn an_open_breaker_refuses_and_says_for_how_long() {
        let mut state = opened_at(SECOND);
        assert_eq!(
            state.admit(&settings(), 11 * SECOND),
            Err(Refused::Open { retry_after: Duration::from_secs(20) })
        );
    }

    #[test]
    fn closes_when_every_probe_succeeded_and_forgets_the_failures() {
        let mut state = opened_at(SECOND);
        let later = 31 * SECOND;
        call(&mut state, Outcome::Success, later);
        assert_eq!(state.phase(&settings(), later), Phase::HalfOpen);
        call(&mut state, Outcome::Success, later);
        assert_eq!(state.phase(&settings(), later), Phase::Closed);
        call(&mut state, Outcome::Failure, later);
        assert_eq!(state.phase(&settings(), later), Phase::Closed, "one failure does not open it again");
    }

    #[test]
    fn a_failed_probe_opens_it_again_for_the_whole_time() {
        let mut state = opened_at(SECOND);
        call(&mut state, Outcome::Failure, 31 * SECOND);
        assert!(matches!(
            state.admit(&settings(), 32 * SECOND),
            Err(Refused::Open { retry_after }) if retry_after == Duration::from_secs(29)
        ));
    }

    /// The original let fifty concurrent probes through.
    #[test]
    fn half_open_admits_exactly_the_configured_probes() {
        let mut state = opened_at(SECOND);
        let later = 31 * SECOND;
        let admitted: Vec<_> = (0..50).filter_map(|_| state.admit(&settings(), later).ok()).collect();
        assert_eq!(admitted.len(), 2);
        state.record(admitted[0], Outcome::Success, &settings(), later);
        assert_eq!(state.admit(&settings(), later), Err(Refused::Probing), "a finished probe frees no place");
    }

    #[test]
    fn a_cancelled_probe_gives_its_place_back() {
        let mut state = opened_at(SECOND);
        let later = 31 * SECOND;
        let first = state.admit(&settings(), later).unwrap();
        let _second = state.admit(&settings(), later).unwrap();
        state.record(first, Outcome::Cancelled, &settings(), later);
        assert!(state.admit(&settings(), later).is_ok());
        assert_eq!(state.admit(&settings(), later), Err(Refused::Probing));
    }

    /// In the original, late results of calls begun before the opening still counted.
    #[test]
    fn the_result_of_a_call_from_an_earlier_phase_changes_nothing() {
        let mut state = State::default();
        let early = state.admit(&settings(), SECOND).unwrap();
        for _ in 0..4 {
            call(&mut state, Outcome::Failure, SECOND);
        }
        let probe = state.admit(&settings(), 31 * SECOND).unwrap();
        state.record(early, Outcome::Failure, &settings(), 31 * SECOND);
        assert_eq!(state.phase(&settings(), 31 * SECOND), Phase::HalfOpen);
        state.record(probe, Outcome::Success, &settings(), 31 * SECOND);
        state.record(early, Outcome::Success, &settings(), 31 * SECOND);
        assert_eq!(state.phase(&settings(), 31 * SECOND), Phase::HalfOpen, "one of two probes");
    }

    #[test]
    fn a_429_is_no_failure_and_its_time_is_honoured() {
        let mut state = State::default();
        for i in 0..20 {
            call(&mut state, Outcome::Throttled(Some(Duration::from_secs(5))), SECOND * (1 + 6 * i));
        }
        let now = SECOND * (1 + 6 * 19);
        assert_eq!(state.phase(&settings(), now), Phase::Closed);
        assert_eq!(
            state.admit(&settings(), now + SECOND),
            Err(Refused::Throttled { retry_after: Duration::from_secs(4) })
        );
        assert_eq!(state.throttled_for(now + SECOND), Some(Duration::from_secs(4)));
        assert_eq!(state.throttled_for(now + 5 * SECOND), None);
        assert!(state.admit(&settings(), now + 5 * SECOND).is_ok());
    }

    #[test]
    fn calls_count_at_their_own_time() {
        let mut state = State::default();
        for (outcome, times, at) in [(Outcome::Success, 4, 1), (Outcome::Failure, 3, 9)] {
            for _ in 0..times {
                call(&mut state, outcome, at * SECOND);
            }
        }
        assert_eq!(state.slots.len(), 2, "those of one moment together");
        call(&mut state, Outcome::Failure, 12 * SECOND);
        assert_eq!(state.phase(&settings(), 12 * SECOND), Phase::Open, "the successes are over");
    }

    #[test]
    fn the_longest_window_counts_to_its_end() {
        let longest = Settings { window: Duration::from_mins(10), ..settings() };
        let mut state = State::default();
        for at in [1, 1, 1, 601] {
            let admission = state.admit(&longest, at * SECOND).unwrap();
            state.record(admission, Outcome::Failure, &longest, at * SECOND);
        }
        assert_eq!(state.phase(&longest, 601 * SECOND), Phase::Open);
    }

    #[test]
    fn new_settings_act_on_the_old_history() {
        let mut state = State::default();
        for outcome in [Outcome::Success, Outcome::Success, Outcome::Success, Outcome::Failure] {
            call(&mut state, outcome, SECOND);
        }
        assert_eq!(state.phase(&settings(), SECOND), Phase::Closed);
        let strict = Settings { failure_ratio: 0.25, ..settings() };
        let admission = state.admit(&strict, SECOND).unwrap();
        state.record(admission, Outcome::Failure, &strict, SECOND);
        assert_eq!(state.phase(&strict, SECOND), Phase::Open, "two of five, counted before the change");
        let patient = Settings { open_for: Duration::from_millis(100), ..settings() };
        assert!(state.admit(&patient, SECOND + 100_000_000).is_ok(), "the shorter time acts at once");
    }

    /// 0.55 times 20 is a little more than 11 in binary. Found by simulation.
    #[test]
    fn a_share_that_is_met_exactly_opens_it() {
        for percent in 1..=100 {
            let settings =
                Settings { failure_ratio: f64::from(percent) / 100.0, minimum_calls: 100, ..settings() };
            let mut state = State::default();
            for i in 1..=100 {
                assert_eq!(state.phase(&settings, SECOND), Phase::Closed, "{i} of {percent} failures");
                let outcome = if i > 100 - percent { Outcome::Failure } else { Outcome::Success };
                let admission = state.admit(&settings, SECOND).unwrap();
                state.record(admission, outcome, &settings, SECOND);
            }
            assert_eq!(state.phase(&settings, SECOND), Phase::Open, "{percent} of 100 calls failed");
        }
    }

    #[test]
    fn a_clock_that_steps_back_delays_nothing() {
        let mut state = opened_at(3_600 * SECOND);
        let mut elsewhere = state.clone();
        assert!(!state.would_admit(&settings(), SECOND));
        assert!(!state.would_admit(&settings(), 30 * SECOND));
        assert!(state.would_admit(&settings(), 31 * SECOND), "30 s have passed since");
        let refused = elsewhere.admit(&settings(), SECOND).unwrap_err();
        assert_eq!(refused, Refused::Open { retry_after: Duration::from_secs(30) });
        let probe = elsewhere.admit(&settings(), 31 * SECOND).unwrap();
        let wait = Outcome::Throttled(Some(Duration::from_secs(5)));
        elsewhere.record(probe, wait, &settings(), 31 * SECOND);
        assert_eq!(elsewhere.throttled_for(0), Some(Duration::from_secs(5)));
        assert_eq!(elsewhere.throttled_for(5 * SECOND), None);
    }

    #[test]
    fn calls_before_a_clock_stepped_back_leave_the_window_all_the_same() {
        let mut state = State::default();
        for (outcome, times, at) in [(Outcome::Success, 9, 3_600), (Outcome::Failure, 3, 1)] {
            for _ in 0..times {
                call(&mut state, outcome, at * SECOND);
            }
        }
        call(&mut state, Outcome::Failure, 8 * SECOND);
        assert_eq!(state.phase(&settings(), 8 * SECOND), Phase::Closed, "four of thirteen");
        call(&mut state, Outcome::Failure, 12 * SECOND);
        assert_eq!(state.phase(&settings(), 12 * SECOND), Phase::Closed, "two, of which the window is");
        for _ in 0..2 {
            call(&mut state, Outcome::Failure, 12 * SECOND);
        }
        assert_eq!(state.phase(&settings(), 12 * SECOND), Phase::Open, "all four in the window");
    }

    #[test]
    fn asking_for_fewer_probes_than_succeeded_closes_it() {
        let three = Settings { half_open_probes: 3, ..settings() };
        let one = Settings { half_open_probes: 1, ..settings() };
        let mut state = opened_at(SECOND);
        let later = 31 * SECOND;
        let probe = state.admit(&three, later).unwrap();
        state.record(probe, Outcome::Success, &three, later);
        assert_eq!(state.phase(&three, later), Phase::HalfOpen);
        assert_eq!(state.phase(&one, later), Phase::Closed);
        assert!(state.would_admit(&one, later) && state.admit(&one, later).is_ok());
    }

    /// It was shown as closed, and one failure opened it: that of a probe still under way. Found by simulation.
    #[test]
    fn what_a_probe_comes_to_once_fewer_are_asked_for_does_not_count() {
        let two = settings();
        let one = Settings { half_open_probes: 1, ..two };
        let mut state = opened_at(SECOND);
        let later = 31 * SECOND;
        let [first, second] = [0; 2].map(|_| state.admit(&two, later).unwrap());
        state.record(first, Outcome::Success, &two, later);
        assert_eq!(state.phase(&one, later), Phase::Closed);
        state.record(second, Outcome::Failure, &one, later);
        assert_eq!(state.phase(&one, later), Phase::Closed);
    }

    #[test]
    fn memory_is_bounded_over_a_year_of_calls() {
        let mut state = State::default();
        for day in 0..365 {
            for second in 0..100 {
                call(&mut state, Outcome::Success, SECOND * (1 + day * 86_400 + second));
            }
        }
        assert!(state.slots.len() as u64 <= LONGEST_WINDOW_SLOTS + 1);
    }

    proptest! {
        /// Any mixture of callers under settings that change: probes never exceed their number,
        /// refusals name a time after which a call is admitted, it is never stuck, and nothing panics.
        #[test]
        fn keeps_its_promises_under_any_sequence(
            steps in proptest::collection::vec((0..5_u8, 0..20_000_000_000_u64, 0..8_usize, 1..4_u32), 1..300),
        ) {
            let mut most_probes = 1;
            let mut state = State::default();
            let mut now = 1;
            let mut open: Vec<Admission> = Vec::new();
            for (what, gap, which, half_open_probes) in steps {
                now += gap / 10;
                let settings = Settings { half_open_probes, ..settings() };
                most_probes = most_probes.max(half_open_probes);
                if what == 0 {
                    let expected = state.would_admit(&settings, now);
                    let answer = state.admit(&settings, now);
                    prop_assert_eq!(answer.is_ok(), expected);
                    match answer {
                        Ok(admission) => open.push(admission),
                        Err(Refused::Probing) => {}
                        Err(refused) => {
                            let then = now + refused.retry_after().as_nanos() as u64;
                            let again = state.clone().admit(&settings, then);
                            prop_assert!(again != Err(refused), "the time named was not enough");
                        }
                    }
                } else if !open.is_empty() {
                    let admission = open.swap_remove(which % open.len());
                    let outcome = match what {
                        1 => Outcome::Success,
                        2 => Outcome::Failure,
                        3 => Outcome::Throttled(Some(Duration::from_millis(gap % 3_000))),
                        _ => Outcome::Cancelled,
                    };
                    state.record(admission, outcome, &settings, now);
                }
                if let Current::HalfOpen { granted, succeeded } = state.phase {
                    prop_assert!(granted <= most_probes && succeeded <= granted);
                }
            }
            // Whatever is on its way ends, and after the longest wait a call is admitted.
            let settings = settings();
            for admission in open {
                state.record(admission, Outcome::Cancelled, &settings, now);
            }
            now += 60 * SECOND;
            prop_assert!(state.admit(&settings, now).is_ok());
        }
    }
}
