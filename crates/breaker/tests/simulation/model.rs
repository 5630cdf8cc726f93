//! Reference model of a breaker, written for clarity and not for speed: keeps every outcome with its time,
//! identifies every call, and compares ratios in whole numbers.

use std::{collections::BTreeSet, time::Duration};

use phase6_breaker::{Outcome, Rejection, State, Status};

use crate::scenario::IntegerSettings;

/// Resolution of the window in nanoseconds: a call counts until the quarter second in which it ended lies
/// entirely before the window.
const WINDOW_RESOLUTION_NS: u64 = 250_000_000;

enum Current {
    Closed,
    Open { since: u64 },
    HalfOpen { succeeded: u64 },
}

struct EndedCall {
    at: u64,
    failed: bool,
}

/// Times are in nanoseconds.
pub struct Model {
    /// Most recent clock reading.
    clock: u64,
    /// Sum of all forward steps of the clock.
    time: u64,
    current: Current,
    /// Calls in flight that were admitted in the current state; the outcome of no other call counts.
    admitted: BTreeSet<u64>,
    /// Calls that ended since the breaker last closed.
    ended: Vec<EndedCall>,
    throttled_until: u64,
    pub calls: u64,
    pub failures: u64,
    pub rejected: u64,
}

impl Model {
    pub fn new() -> Self {
        Self {
            clock: 0,
            time: 0,
            current: Current::Closed,
            admitted: BTreeSet::new(),
            ended: Vec::new(),
            throttled_until: 0,
            calls: 0,
            failures: 0,
            rejected: 0,
        }
    }

    /// Takes a clock reading. A step back does not count as time.
    pub fn set_clock(&mut self, reading: u64) {
        self.time += reading.saturating_sub(self.clock);
        self.clock = reading;
    }

    pub fn status(&self, settings: &IntegerSettings) -> Status {
        let state = match self.current {
            Current::Closed => State::Closed,
            Current::Open { since } if self.time - since < settings.open_for.as_nanos() as u64 => State::Open,
            Current::HalfOpen { succeeded } if succeeded >= settings.probes => State::Closed,
            Current::Open { .. } | Current::HalfOpen { .. } => State::HalfOpen,
        };
        Status { state, throttled: self.is_throttled() }
    }

    /// Returns the number of probes that have succeeded in the current half-open state.
    pub fn succeeded_probes(&self) -> u64 {
        if let Current::HalfOpen { succeeded } = self.current { succeeded } else { 0 }
    }

    fn is_throttled(&self) -> bool {
        self.time < self.throttled_until
    }

    /// Returns the time until the next change that needs no call: the end of a throttle or of `open_for`, or
    /// a call leaving the window.
    pub fn until_next_change(&self, settings: &IntegerSettings) -> Duration {
        let change = match self.current {
            _ if self.is_throttled() => self.throttled_until,
            Current::Open { since } => since + settings.open_for.as_nanos() as u64,
            _ => match self.ended.iter().find(|call| call.at >= self.window_start(settings)) {
                Some(call) => {
                    (call.at / WINDOW_RESOLUTION_NS + 1) * WINDOW_RESOLUTION_NS
                        + settings.window.as_nanos() as u64
                }
                None => self.time,
            },
        };
        Duration::from_nanos(change.saturating_sub(self.time))
    }

    /// Admits or rejects `call`; returns the rejection.
    pub fn admit(&mut self, call: u64, settings: &IntegerSettings) -> Option<Rejection> {
        let rejection = self.rejection(settings);
        if rejection.is_none() {
            self.admitted.insert(call);
        } else {
            self.rejected += 1;
        }
        rejection
    }

    fn rejection(&mut self, settings: &IntegerSettings) -> Option<Rejection> {
        if self.is_throttled() {
            let retry_after = Duration::from_nanos(self.throttled_until - self.time);
            return Some(Rejection::Throttled { retry_after });
        }
        if let Current::Open { since } = self.current {
            let until = since + settings.open_for.as_nanos() as u64;
            if self.time < until {
                return Some(Rejection::Open { retry_after: Duration::from_nanos(until - self.time) });
            }
            self.enter(Current::HalfOpen { succeeded: 0 });
        }
        self.close_if_proven(settings);
        match self.current {
            Current::HalfOpen { succeeded } if self.admitted.len() as u64 + succeeded >= settings.probes => {
                Some(Rejection::HalfOpen)
            }
            _ => None,
        }
    }

    pub fn record(&mut self, call: u64, outcome: Outcome, settings: &IntegerSettings) {
        let failed = outcome == Outcome::Failure;
        self.calls += u64::from(outcome != Outcome::Cancelled);
        self.failures += u64::from(failed);
        if let Outcome::Throttled { retry_after } = outcome {
            let wait = retry_after.unwrap_or(Duration::from_secs(1)).min(Duration::from_hours(24));
            self.throttled_until = self.throttled_until.max(self.time + wait.as_nanos() as u64);
        }
        self.close_if_proven(settings);
        if !self.admitted.remove(&call) || outcome == Outcome::Cancelled {
            return;
        }
        match &mut self.current {
            Current::Closed => {
                self.ended.push(EndedCall { at: self.time, failed });
                if failed && self.failure_ratio_reached(settings) {
                    self.enter(Current::Open { since: self.time });
                }
            }
            Current::HalfOpen { .. } if failed => self.enter(Current::Open { since: self.time }),
            Current::HalfOpen { succeeded } => *succeeded += 1,
            Current::Open { .. } => unreachable!("an open breaker admits no call"),
        }
        self.close_if_proven(settings);
    }

    fn window_start(&self, settings: &IntegerSettings) -> u64 {
        let exact = self.time.saturating_sub(settings.window.as_nanos() as u64);
        exact / WINDOW_RESOLUTION_NS * WINDOW_RESOLUTION_NS
    }

    fn failure_ratio_reached(&self, settings: &IntegerSettings) -> bool {
        let start = self.window_start(settings);
        let (mut calls, mut failures) = (0, 0);
        for call in self.ended.iter().filter(|call| call.at >= start) {
            calls += 1;
            failures += u64::from(call.failed);
        }
        calls >= settings.minimum_calls && failures * 100 >= settings.failure_percent * calls
    }

    fn close_if_proven(&mut self, settings: &IntegerSettings) {
        if matches!(self.current, Current::HalfOpen { succeeded } if succeeded >= settings.probes) {
            self.ended.clear();
            self.enter(Current::Closed);
        }
    }

    fn enter(&mut self, next: Current) {
        self.current = next;
        self.admitted.clear();
    }
}
