//! A breaker that many callers share, and its statistics.
//!
//! Generic over where the state machine lives ([`Backend`]); does not know what a call is.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use phase6_live::Live;
use serde::Serialize;

use crate::state::{Admission, Outcome, Rejection, Settings, State, StateMachine};

/// Storage of a breaker's state machine, together with its clock.
pub trait Backend: Send + Sync + 'static {
    /// Admits or rejects a call.
    ///
    /// # Errors
    ///
    /// The call is rejected.
    fn admit(&self, settings: &Settings) -> Result<Admission, Rejection>;

    /// Records the outcome of an admitted call.
    fn record(&self, admission: Admission, outcome: Outcome, settings: &Settings);

    /// Returns true if a call would be admitted now. Admits nothing.
    fn would_admit(&self, settings: &Settings) -> bool;

    /// Returns the current status.
    fn status(&self, settings: &Settings) -> Status;
}

/// Status of a breaker at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// State of the circuit.
    pub state: State,
    /// True while a 429 of the peer throttles calls.
    pub throttled: bool,
}

/// A [`Backend`] in the memory of this process.
#[derive(Debug)]
pub struct ProcessLocal {
    machine: Mutex<StateMachine>,
    epoch: Instant,
}

impl Default for ProcessLocal {
    fn default() -> Self {
        Self { machine: Mutex::default(), epoch: Instant::now() }
    }
}

impl ProcessLocal {
    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

impl Backend for ProcessLocal {
    fn admit(&self, settings: &Settings) -> Result<Admission, Rejection> {
        self.machine.lock().admit(settings, self.now_ns())
    }

    fn record(&self, admission: Admission, outcome: Outcome, settings: &Settings) {
        self.machine.lock().record(admission, outcome, settings, self.now_ns());
    }

    fn would_admit(&self, settings: &Settings) -> bool {
        self.machine.lock().would_admit(settings, self.now_ns())
    }

    fn status(&self, settings: &Settings) -> Status {
        let now = self.now_ns();
        let mut machine = self.machine.lock();
        Status { state: machine.state(settings, now), throttled: machine.throttled_for(now).is_some() }
    }
}

/// A circuit breaker around one peer. Clones are handles to one breaker.
#[derive(Clone)]
pub struct Breaker {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    backend: Box<dyn Backend>,
    settings: Live<Settings>,
    counts: Mutex<Counts>,
}

/// Counts since the start.
#[derive(Debug, Default)]
struct Counts {
    calls: u64,
    failures: u64,
    rejected: u64,
    last_failure: Option<Timestamp>,
}

/// Status and counts of a breaker, as the observability endpoints show them. Counts are since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// State of the circuit.
    pub status: State,
    /// True while a 429 of the peer throttles calls.
    pub throttled: bool,
    /// Number of admitted calls that have ended and were not cancelled.
    pub call_count: u64,
    /// Number of admitted calls that failed.
    pub failure_count: u64,
    /// Number of rejected calls.
    pub rejected_count: u64,
    /// Time of the most recent failure.
    pub last_failure_time: Option<Timestamp>,
}

impl Breaker {
    /// Creates a closed breaker in the memory of this process. `name` is the peer it guards; `settings` may
    /// change at any time.
    pub fn new(name: impl Into<String>, settings: Live<Settings>) -> Self {
        Self::with_backend(name, settings, ProcessLocal::default())
    }

    /// Creates a breaker whose state machine lives in `backend`.
    pub fn with_backend(name: impl Into<String>, settings: Live<Settings>, backend: impl Backend) -> Self {
        let inner =
            Inner { name: name.into(), backend: Box::new(backend), settings, counts: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the name of the peer that the breaker guards.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Admits or rejects a call.
    ///
    /// # Errors
    ///
    /// The call is rejected; the error says why and when to try again.
    pub fn admit(&self) -> Result<Permit, Rejection> {
        match self.inner.backend.admit(&self.inner.settings.load()) {
            Ok(admission) => Ok(Permit { breaker: self.clone(), admission: Some(admission) }),
            Err(rejection) => {
                self.inner.counts.lock().rejected += 1;
                Err(rejection)
            }
        }
    }

    /// Returns true if a call would be admitted now. Admits nothing.
    pub fn would_admit(&self) -> bool {
        self.inner.backend.would_admit(&self.inner.settings.load())
    }

    /// Returns the current status and counts.
    pub fn snapshot(&self) -> Snapshot {
        let Status { state, throttled } = self.inner.backend.status(&self.inner.settings.load());
        let counts = self.inner.counts.lock();
        Snapshot {
            status: state,
            throttled,
            call_count: counts.calls,
            failure_count: counts.failures,
            rejected_count: counts.rejected,
            last_failure_time: counts.last_failure,
        }
    }

    fn record(&self, admission: Admission, outcome: Outcome) {
        self.inner.backend.record(admission, outcome, &self.inner.settings.load());
        if outcome != Outcome::Cancelled {
            let mut counts = self.inner.counts.lock();
            counts.calls += 1;
            if outcome == Outcome::Failure {
                counts.failures += 1;
                counts.last_failure = Some(Timestamp::now());
            }
        }
    }
}

/// The right to make one call. Dropped without [`Permit::record`], the call counts as cancelled.
#[must_use = "a permit that is dropped at once counts as a cancelled call"]
pub struct Permit {
    breaker: Breaker,
    /// `None` once the outcome is recorded.
    admission: Option<Admission>,
}

impl Permit {
    /// Records the outcome of the call.
    pub fn record(mut self, outcome: Outcome) {
        if let Some(admission) = self.admission.take() {
            self.breaker.record(admission, outcome);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            self.breaker.record(admission, Outcome::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn breaker(open_for: Duration) -> Breaker {
        Breaker::new(
            "peer",
            Live::new(Settings {
                failure_ratio: 0.5,
                minimum_calls: 1,
                window: Duration::from_secs(10),
                open_for,
                half_open_probes: 1,
            }),
        )
    }

    #[test]
    fn counts_calls_failures_and_rejections_separately() {
        let breaker = breaker(Duration::from_mins(1));
        breaker.admit().unwrap().record(Outcome::Success);
        breaker.admit().unwrap().record(Outcome::Failure);
        assert!(breaker.admit().is_err());
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.status, State::Open);
        assert_eq!((snapshot.call_count, snapshot.failure_count, snapshot.rejected_count), (2, 1, 1));
        assert!(snapshot.last_failure_time.is_some());
    }

    #[test]
    fn admits_one_probe_however_many_threads_try() {
        let breaker = breaker(Duration::ZERO);
        breaker.admit().unwrap().record(Outcome::Failure);
        let permits: Vec<Permit> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(|| breaker.admit().ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.len(), 1);
    }

    #[test]
    fn a_dropped_permit_releases_its_probe() {
        let breaker = breaker(Duration::ZERO);
        breaker.admit().unwrap().record(Outcome::Failure);
        drop(breaker.admit().unwrap());
        breaker.admit().unwrap().record(Outcome::Success);
        assert_eq!(breaker.snapshot().status, State::Closed);
    }
}
