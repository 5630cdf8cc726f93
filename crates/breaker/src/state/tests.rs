//! Tests of the state machine under an explicit clock.

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

fn call(machine: &mut StateMachine, outcome: Outcome, now: u64) {
    let admission = machine.admit(&settings(), now).expect("admitted");
    machine.record(admission, outcome, &settings(), now);
}

fn opened_at(now: u64) -> StateMachine {
    let mut machine = StateMachine::default();
    for _ in 0..4 {
        call(&mut machine, Outcome::Failure, now);
    }
    assert_eq!(machine.state(&settings(), now), State::Open);
    machine
}

#[test]
fn states_have_their_textbook_names() {
    let names = [State::Closed, State::Open, State::HalfOpen].map(|state| state.to_string());
    assert_eq!(names, ["closed", "open", "half-open"]);
}

#[test]
fn opens_at_the_failure_ratio_but_not_below_the_minimum_of_calls() {
    let mut machine = StateMachine::default();
    for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success] {
        call(&mut machine, outcome, SECOND);
    }
    assert_eq!(machine.state(&settings(), SECOND), State::Closed, "three calls are below the minimum");
    call(&mut machine, Outcome::Failure, SECOND);
    assert_eq!(machine.state(&settings(), SECOND), State::Open);
}

/// The original system counted consecutive failures only, so every second call could fail without
/// opening the breaker.
#[test]
fn opens_when_half_of_the_calls_fail() {
    let mut machine = StateMachine::default();
    for i in 0..4 {
        call(&mut machine, if i % 2 == 0 { Outcome::Success } else { Outcome::Failure }, SECOND);
    }
    assert_eq!(machine.state(&settings(), SECOND), State::Open);
}

#[test]
fn ignores_calls_outside_the_window() {
    let mut machine = StateMachine::default();
    for _ in 0..3 {
        call(&mut machine, Outcome::Failure, SECOND);
    }
    call(&mut machine, Outcome::Failure, 20 * SECOND);
    assert_eq!(machine.state(&settings(), 20 * SECOND), State::Closed);
}

#[test]
fn an_open_breaker_rejects_calls_and_says_for_how_long() {
    let mut machine = opened_at(SECOND);
    assert_eq!(
        machine.admit(&settings(), 11 * SECOND),
        Err(Rejection::Open { retry_after: Duration::from_secs(20) })
    );
}

#[test]
fn closes_when_every_probe_succeeded_and_clears_the_window() {
    let mut machine = opened_at(SECOND);
    let later = 31 * SECOND;
    call(&mut machine, Outcome::Success, later);
    assert_eq!(machine.state(&settings(), later), State::HalfOpen);
    call(&mut machine, Outcome::Success, later);
    assert_eq!(machine.state(&settings(), later), State::Closed);
    call(&mut machine, Outcome::Failure, later);
    assert_eq!(machine.state(&settings(), later), State::Closed, "a single new failure is below the minimum");
}

#[test]
fn a_failed_probe_reopens_it_for_the_whole_of_open_for() {
    let mut machine = opened_at(SECOND);
    call(&mut machine, Outcome::Failure, 31 * SECOND);
    assert!(matches!(
        machine.admit(&settings(), 32 * SECOND),
        Err(Rejection::Open { retry_after }) if retry_after == Duration::from_secs(29)
    ));
}

/// The original system admitted fifty concurrent probes.
#[test]
fn half_open_admits_exactly_the_configured_probes() {
    let mut machine = opened_at(SECOND);
    let later = 31 * SECOND;
    let admitted: Vec<_> = (0..50).filter_map(|_| machine.admit(&settings(), later).ok()).collect();
    assert_eq!(admitted.len(), 2);
    machine.record(admitted[0], Outcome::Success, &settings(), later);
    assert_eq!(
        machine.admit(&settings(), later),
        Err(Rejection::HalfOpen),
        "a finished probe does not make room for another"
    );
}

#[test]
fn a_cancelled_probe_makes_room_for_another() {
    let mut machine = opened_at(SECOND);
    let later = 31 * SECOND;
    let first = machine.admit(&settings(), later).unwrap();
    let _second = machine.admit(&settings(), later).unwrap();
    machine.record(first, Outcome::Cancelled, &settings(), later);
    assert!(machine.admit(&settings(), later).is_ok());
    assert_eq!(machine.admit(&settings(), later), Err(Rejection::HalfOpen));
}

/// The original system still counted late results of calls begun before the breaker opened.
#[test]
fn ignores_the_outcome_of_a_call_from_an_earlier_state() {
    let mut machine = StateMachine::default();
    let early = machine.admit(&settings(), SECOND).unwrap();
    for _ in 0..4 {
        call(&mut machine, Outcome::Failure, SECOND);
    }
    let probe = machine.admit(&settings(), 31 * SECOND).unwrap();
    machine.record(early, Outcome::Failure, &settings(), 31 * SECOND);
    assert_eq!(machine.state(&settings(), 31 * SECOND), State::HalfOpen);
    machine.record(probe, Outcome::Success, &settings(), 31 * SECOND);
    machine.record(early, Outcome::Success, &settings(), 31 * SECOND);
    assert_eq!(machine.state(&settings(), 31 * SECOND), State::HalfOpen, "one of two probes has succeeded");
}

#[test]
fn a_429_is_not_a_failure_and_throttles_for_its_retry_after() {
    let mut machine = StateMachine::default();
    for i in 0..20 {
        call(
            &mut machine,
            Outcome::Throttled { retry_after: Some(Duration::from_secs(5)) },
            SECOND * (1 + 6 * i),
        );
    }
    let now = SECOND * (1 + 6 * 19);
    assert_eq!(machine.state(&settings(), now), State::Closed);
    assert_eq!(
        machine.admit(&settings(), now + SECOND),
        Err(Rejection::Throttled { retry_after: Duration::from_secs(4) })
    );
    assert_eq!(machine.throttled_for(now + SECOND), Some(Duration::from_secs(4)));
    assert_eq!(machine.throttled_for(now + 5 * SECOND), None);
    assert!(machine.admit(&settings(), now + 5 * SECOND).is_ok());
}

#[test]
fn calls_leave_the_window_one_by_one() {
    let mut machine = StateMachine::default();
    for (outcome, times, at) in [(Outcome::Success, 4, 1), (Outcome::Failure, 3, 9)] {
        for _ in 0..times {
            call(&mut machine, outcome, at * SECOND);
        }
    }
    assert_eq!(machine.slots.len(), 2, "calls of one slot are counted together");
    call(&mut machine, Outcome::Failure, 12 * SECOND);
    assert_eq!(machine.state(&settings(), 12 * SECOND), State::Open, "the successes have left the window");
}

#[test]
fn the_longest_window_covers_all_ten_minutes() {
    let longest = Settings { window: Duration::from_mins(10), ..settings() };
    let mut machine = StateMachine::default();
    for at in [1, 1, 1, 601] {
        let admission = machine.admit(&longest, at * SECOND).unwrap();
        machine.record(admission, Outcome::Failure, &longest, at * SECOND);
    }
    assert_eq!(machine.state(&longest, 601 * SECOND), State::Open);
}

#[test]
fn new_settings_apply_to_the_recorded_history() {
    let mut machine = StateMachine::default();
    for outcome in [Outcome::Success, Outcome::Success, Outcome::Success, Outcome::Failure] {
        call(&mut machine, outcome, SECOND);
    }
    assert_eq!(machine.state(&settings(), SECOND), State::Closed);
    let strict = Settings { failure_ratio: 0.25, ..settings() };
    let admission = machine.admit(&strict, SECOND).unwrap();
    machine.record(admission, Outcome::Failure, &strict, SECOND);
    assert_eq!(
        machine.state(&strict, SECOND),
        State::Open,
        "two of five, one of them recorded under the old settings"
    );
    let patient = Settings { open_for: Duration::from_millis(100), ..settings() };
    assert!(machine.admit(&patient, SECOND + 100_000_000).is_ok(), "the shorter open_for applies at once");
}

/// In floating point, 0.55 times 20 is slightly more than 11. Found by simulation.
#[test]
fn opens_when_the_failure_ratio_is_met_exactly() {
    for percent in 1..=100 {
        let settings =
            Settings { failure_ratio: f64::from(percent) / 100.0, minimum_calls: 100, ..settings() };
        let mut machine = StateMachine::default();
        for i in 1..=100 {
            assert_eq!(machine.state(&settings, SECOND), State::Closed, "{i} of {percent} failures");
            let outcome = if i > 100 - percent { Outcome::Failure } else { Outcome::Success };
            let admission = machine.admit(&settings, SECOND).unwrap();
            machine.record(admission, outcome, &settings, SECOND);
        }
        assert_eq!(machine.state(&settings, SECOND), State::Open, "{percent} of 100 calls failed");
    }
}

#[test]
fn a_clock_that_steps_back_delays_nothing() {
    let mut machine = opened_at(3_600 * SECOND);
    let mut elsewhere = machine.clone();
    assert!(!machine.would_admit(&settings(), SECOND));
    assert!(!machine.would_admit(&settings(), 30 * SECOND));
    assert!(machine.would_admit(&settings(), 31 * SECOND), "30 s have passed since it opened");
    let refused = elsewhere.admit(&settings(), SECOND).unwrap_err();
    assert_eq!(refused, Rejection::Open { retry_after: Duration::from_secs(30) });
    let probe = elsewhere.admit(&settings(), 31 * SECOND).unwrap();
    let wait = Outcome::Throttled { retry_after: Some(Duration::from_secs(5)) };
    elsewhere.record(probe, wait, &settings(), 31 * SECOND);
    assert_eq!(elsewhere.throttled_for(0), Some(Duration::from_secs(5)));
    assert_eq!(elsewhere.throttled_for(5 * SECOND), None);
}

#[test]
fn calls_from_before_a_backward_clock_step_still_leave_the_window() {
    let mut machine = StateMachine::default();
    for (outcome, times, at) in [(Outcome::Success, 9, 3_600), (Outcome::Failure, 3, 1)] {
        for _ in 0..times {
            call(&mut machine, outcome, at * SECOND);
        }
    }
    call(&mut machine, Outcome::Failure, 8 * SECOND);
    assert_eq!(machine.state(&settings(), 8 * SECOND), State::Closed, "four of thirteen calls failed");
    call(&mut machine, Outcome::Failure, 12 * SECOND);
    assert_eq!(machine.state(&settings(), 12 * SECOND), State::Closed, "two failures are below the minimum");
    for _ in 0..2 {
        call(&mut machine, Outcome::Failure, 12 * SECOND);
    }
    assert_eq!(machine.state(&settings(), 12 * SECOND), State::Open, "four failures in the window");
}

#[test]
fn closes_when_new_settings_require_no_more_probes_than_have_succeeded() {
    let three = Settings { half_open_probes: 3, ..settings() };
    let one = Settings { half_open_probes: 1, ..settings() };
    let mut machine = opened_at(SECOND);
    let later = 31 * SECOND;
    let probe = machine.admit(&three, later).unwrap();
    machine.record(probe, Outcome::Success, &three, later);
    assert_eq!(machine.state(&three, later), State::HalfOpen);
    assert_eq!(machine.state(&one, later), State::Closed);
    assert!(machine.would_admit(&one, later) && machine.admit(&one, later).is_ok());
}

/// The machine read as closed, yet the failure of a probe that was still in flight reopened it. Found by
/// simulation.
#[test]
fn ignores_a_probe_still_in_flight_once_fewer_probes_are_required() {
    let two = settings();
    let one = Settings { half_open_probes: 1, ..two };
    let mut machine = opened_at(SECOND);
    let later = 31 * SECOND;
    let [first, second] = [0; 2].map(|_| machine.admit(&two, later).unwrap());
    machine.record(first, Outcome::Success, &two, later);
    assert_eq!(machine.state(&one, later), State::Closed);
    machine.record(second, Outcome::Failure, &one, later);
    assert_eq!(machine.state(&one, later), State::Closed);
}

#[test]
fn memory_is_bounded_over_a_year_of_calls() {
    let mut machine = StateMachine::default();
    for day in 0..365 {
        for second in 0..100 {
            call(&mut machine, Outcome::Success, SECOND * (1 + day * 86_400 + second));
        }
    }
    assert!(machine.slots.len() as u64 <= MAX_WINDOW_SLOTS + 1);
}

proptest! {
    /// Under any interleaving of callers and changing settings: probes never exceed their limit, a rejection
    /// names a wait after which the reason no longer holds, the machine never gets stuck, and nothing panics.
    #[test]
    fn upholds_its_guarantees_under_any_sequence_of_calls(
        steps in proptest::collection::vec((0..5_u8, 0..20_000_000_000_u64, 0..8_usize, 1..4_u32), 1..300),
    ) {
        let mut max_probes = 1;
        let mut machine = StateMachine::default();
        let mut now = 1;
        let mut in_flight: Vec<Admission> = Vec::new();
        for (action, gap, index, half_open_probes) in steps {
            now += gap / 10;
            let settings = Settings { half_open_probes, ..settings() };
            max_probes = max_probes.max(half_open_probes);
            if action == 0 {
                let expected = machine.would_admit(&settings, now);
                let result = machine.admit(&settings, now);
                prop_assert_eq!(result.is_ok(), expected);
                match result {
                    Ok(admission) => in_flight.push(admission),
                    Err(Rejection::HalfOpen) => {}
                    Err(rejection) => {
                        let later = now + rejection.retry_after().as_nanos() as u64;
                        let retried = machine.clone().admit(&settings, later);
                        prop_assert!(retried != Err(rejection), "still rejected after the named wait");
                    }
                }
            } else if !in_flight.is_empty() {
                let admission = in_flight.swap_remove(index % in_flight.len());
                let outcome = match action {
                    1 => Outcome::Success,
                    2 => Outcome::Failure,
                    3 => Outcome::Throttled { retry_after: Some(Duration::from_millis(gap % 3_000)) },
                    _ => Outcome::Cancelled,
                };
                machine.record(admission, outcome, &settings, now);
            }
            if let Current::HalfOpen { admitted, succeeded } = machine.current {
                prop_assert!(admitted <= max_probes && succeeded <= admitted);
            }
        }
        // Once all calls in flight have ended and the longest wait has passed, a call is admitted.
        let settings = settings();
        for admission in in_flight {
            machine.record(admission, Outcome::Cancelled, &settings, now);
        }
        now += 60 * SECOND;
        prop_assert!(machine.admit(&settings, now).is_ok());
    }
}
