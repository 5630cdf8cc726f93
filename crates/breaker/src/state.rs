//! The breaker's state machine. Does no I/O and reads no clock.
//!
//! Guarantees:
//!
//! * A closed machine admits every call. It opens when a call fails and the failure ratio of the window has
//!   been reached.
//! * An open machine rejects every call until `open_for` has passed. Only forward movement of the clock
//!   counts as time: a clock that steps back delays nothing.
//! * A half-open machine admits exactly `half_open_probes` calls until it closes or opens again, however many
//!   callers there are.
//! * The outcome of a call admitted in an earlier state has no effect, except that a 429 still throttles.
//! * Settings are passed with every call and not stored: a shorter `open_for` or another ratio applies to the
//!   next call, and the recorded history is kept.

use std::{collections::VecDeque, fmt, time::Duration};

use serde::Serialize;

/// Width of the slots in which calls are counted. The window is exact to one slot.
const SLOT_NS: u64 = 250_000_000;
/// Number of slots in the longest window that a policy accepts (10 minutes); older slots are dropped.
const MAX_WINDOW_SLOTS: u64 = 600 * 4;
/// Throttle time after a 429 without a `Retry-After`.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(1);
/// Longest throttle time after a 429.
const MAX_THROTTLE: Duration = Duration::from_hours(24);

/// Settings of a breaker that apply to one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Share of failed calls, from 0 to 1, at which the breaker opens.
    pub failure_ratio: f64,
    /// Minimum number of calls in the window before the ratio is evaluated.
    pub minimum_calls: u32,
    /// Length of the sliding window.
    pub window: Duration,
    /// Time that the breaker stays open before it admits probes.
    pub open_for: Duration,
    /// Number of probes admitted while half-open; all of them must succeed to close the breaker.
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

/// Result of a call, as the breaker counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer responded. Includes 4xx responses, which are the caller's fault.
    Success,
    /// The call failed because of the peer: connection error, timeout or 5xx response.
    Failure,
    /// The peer responded with 429.
    Throttled {
        /// Wait that the peer asked for, if it named one.
        retry_after: Option<Duration>,
    },
    /// The caller gave up before the result was known.
    Cancelled,
}

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Calls are admitted.
    Closed,
    /// Calls are rejected.
    Open,
    /// A limited number of probes is admitted to find out whether the peer has recovered.
    HalfOpen,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Reason for rejecting a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The breaker is open.
    #[error("circuit breaker is open; retry in {} ms", retry_after.as_millis())]
    Open {
        /// Time until the breaker admits probes.
        retry_after: Duration,
    },
    /// The breaker is half-open and has admitted all of its probes.
    #[error("circuit breaker is half-open and waiting for its probes")]
    HalfOpen,
    /// The peer responded with 429 and its wait has not passed.
    #[error("peer is throttling calls; retry in {} ms", retry_after.as_millis())]
    Throttled {
        /// Rest of the wait.
        retry_after: Duration,
    },
}

impl Rejection {
    /// Returns how long to wait before calling again.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Open { retry_after } | Self::Throttled { retry_after } => *retry_after,
            Self::HalfOpen => Duration::from_secs(1),
        }
    }
}

/// An admitted call, to be passed back to [`StateMachine::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the outcome of an admitted call must be recorded"]
pub struct Admission {
    /// Generation of the state that admitted the call.
    generation: u64,
}

/// The state machine of one breaker. Starts closed.
#[derive(Clone, Debug, Default)]
pub struct StateMachine {
    current: Current,
    /// Number of state changes so far.
    generation: u64,
    /// Calls that ended since the machine closed, oldest slot first.
    slots: VecDeque<Slot>,
    throttled_until_ns: u64,
    /// Clock reading of the previous call.
    clock_ns: u64,
    /// Sum of all backward steps of the clock.
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
        /// Probes admitted and not cancelled.
        admitted: u32,
        succeeded: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u64,
    calls: u32,
    failures: u32,
}

impl StateMachine {
    /// Admits or rejects a call at clock reading `now_ns` (nanoseconds).
    ///
    /// # Errors
    ///
    /// The call is rejected; the error says why and when to try again.
    pub fn admit(&mut self, settings: &Settings, now_ns: u64) -> Result<Admission, Rejection> {
        let now_ns = self.advance_clock(now_ns);
        if now_ns < self.throttled_until_ns {
            let retry_after = Duration::from_nanos(self.throttled_until_ns - now_ns);
            return Err(Rejection::Throttled { retry_after });
        }
        // open -> half-open
        if let Current::Open { since_ns } = self.current {
            let open_for = settings.open_for.as_nanos() as u64;
            let elapsed = now_ns.saturating_sub(since_ns);
            if elapsed < open_for {
                return Err(Rejection::Open { retry_after: Duration::from_nanos(open_for - elapsed) });
            }
            self.enter(Current::HalfOpen { admitted: 0, succeeded: 0 });
        }
        self.close_if_proven(settings);
        if let Current::HalfOpen { admitted, .. } = &mut self.current {
            if *admitted >= settings.half_open_probes {
                return Err(Rejection::HalfOpen);
            }
            *admitted += 1;
        }
        Ok(Admission { generation: self.generation })
    }

    /// Records the outcome of an admitted call that ended at clock reading `now_ns` (nanoseconds).
    pub fn record(&mut self, admission: Admission, outcome: Outcome, settings: &Settings, now_ns: u64) {
        let now_ns = self.advance_clock(now_ns);
        if let Outcome::Throttled { retry_after } = outcome {
            let wait = retry_after.unwrap_or(DEFAULT_THROTTLE).min(MAX_THROTTLE);
            self.throttled_until_ns = self.throttled_until_ns.max(now_ns + wait.as_nanos() as u64);
        }
        self.close_if_proven(settings);
        if admission.generation != self.generation {
            return;
        }
        let failed = outcome == Outcome::Failure;
        match &mut self.current {
            // closed -> open
            Current::Closed => {
                if outcome != Outcome::Cancelled {
                    self.count(failed, now_ns);
                }
                if failed && self.failure_ratio_reached(settings, now_ns) {
                    self.enter(Current::Open { since_ns: now_ns });
                }
            }
            // half-open -> open | closed
            Current::HalfOpen { admitted, succeeded } => match outcome {
                Outcome::Failure => self.enter(Current::Open { since_ns: now_ns }),
                Outcome::Cancelled => *admitted = admitted.saturating_sub(1),
                Outcome::Success | Outcome::Throttled { .. } => {
                    *succeeded += 1;
                    self.close_if_proven(settings);
                }
            },
            Current::Open { .. } => {}
        }
    }

    /// Returns the state at clock reading `now_ns` (nanoseconds). An open machine whose `open_for` has passed
    /// reads as half-open.
    pub fn state(&mut self, settings: &Settings, now_ns: u64) -> State {
        let now_ns = self.advance_clock(now_ns);
        match self.current {
            Current::Closed => State::Closed,
            Current::HalfOpen { succeeded, .. } if succeeded >= settings.half_open_probes => State::Closed,
            Current::HalfOpen { .. } => State::HalfOpen,
            Current::Open { since_ns } => {
                let elapsed = now_ns.saturating_sub(since_ns);
                if elapsed >= settings.open_for.as_nanos() as u64 { State::HalfOpen } else { State::Open }
            }
        }
    }

    /// Returns true if a call would be admitted at clock reading `now_ns` (nanoseconds). Admits nothing.
    pub fn would_admit(&mut self, settings: &Settings, now_ns: u64) -> bool {
        self.throttled_for(now_ns).is_none()
            && match self.state(settings, now_ns) {
                State::Closed => true,
                State::Open => false,
                State::HalfOpen => match self.current {
                    Current::HalfOpen { admitted, .. } => admitted < settings.half_open_probes,
                    _ => true,
                },
            }
    }

    /// Returns how long the peer's 429 still throttles calls, or `None` if it does not.
    pub fn throttled_for(&mut self, now_ns: u64) -> Option<Duration> {
        let now_ns = self.advance_clock(now_ns);
        (now_ns < self.throttled_until_ns).then(|| Duration::from_nanos(self.throttled_until_ns - now_ns))
    }

    /// Takes a clock reading and returns monotonic time. Without the correction, a deadline computed before
    /// the clock stepped back would be reached that much later.
    fn advance_clock(&mut self, now_ns: u64) -> u64 {
        if now_ns < self.clock_ns {
            self.stepped_back_ns += self.clock_ns - now_ns;
        }
        self.clock_ns = now_ns;
        now_ns + self.stepped_back_ns
    }

    /// half-open -> closed. Checked on every call and not only when a probe succeeds: new settings may
    /// require fewer probes than have succeeded already, and there may be no probe left in flight to trigger
    /// the change.
    fn close_if_proven(&mut self, settings: &Settings) {
        if let Current::HalfOpen { succeeded, .. } = self.current
            && succeeded >= settings.half_open_probes
        {
            self.slots.clear();
            self.enter(Current::Closed);
        }
    }

    fn enter(&mut self, next: Current) {
        self.current = next;
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
        while self.slots.front().is_some_and(|slot| number - slot.number > MAX_WINDOW_SLOTS) {
            self.slots.pop_front();
        }
    }

    fn failure_ratio_reached(&self, settings: &Settings, now_ns: u64) -> bool {
        let oldest = now_ns.saturating_sub(settings.window.as_nanos() as u64) / SLOT_NS;
        let (mut calls, mut failures) = (0_u64, 0_u64);
        for slot in self.slots.iter().rev().take_while(|slot| slot.number >= oldest) {
            calls += u64::from(slot.calls);
            failures += u64::from(slot.failures);
        }
        // Divide rather than multiply: `failure_ratio * calls` can round up past the exact integer, as in
        // 0.55 * 20 > 11.
        calls >= u64::from(settings.minimum_calls) && failures as f64 / calls as f64 >= settings.failure_ratio
    }
}

#[cfg(test)]
mod tests;
