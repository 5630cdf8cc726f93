//! One machine for many callers, and what it shows of itself.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use phase6_live::Live;
use serde::Serialize;

use crate::state::{Admission, Outcome, Phase, Refused, Settings, State};

/// Where a breaker's state lives.
pub trait Backend: Send + Sync + 'static {
    /// Asks for one call.
    ///
    /// # Errors
    ///
    /// The call is refused.
    fn admit(&self, settings: &Settings) -> Result<Admission, Refused>;

    /// Tells how an admitted call ended.
    fn record(&self, admission: Admission, outcome: Outcome, settings: &Settings);

    /// Whether a call would be admitted now; changes nothing.
    fn would_admit(&self, settings: &Settings) -> bool;

    /// Where it stands, and whether the peer asked to wait.
    fn phase(&self, settings: &Settings) -> (Phase, bool);
}

/// State in the memory of this process.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
    epoch: Instant,
}

impl Default for Memory {
    fn default() -> Self {
        Self { state: Mutex::default(), epoch: Instant::now() }
    }
}

impl Memory {
    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

impl Backend for Memory {
    fn admit(&self, settings: &Settings) -> Result<Admission, Refused> {
        self.state.lock().admit(settings, self.now_ns())
    }

    fn record(&self, admission: Admission, outcome: Outcome, settings: &Settings) {
        self.state.lock().record(admission, outcome, settings, self.now_ns());
    }

    fn would_admit(&self, settings: &Settings) -> bool {
        self.state.lock().would_admit(settings, self.now_ns())
    }

    fn phase(&self, settings: &Settings) -> (Phase, bool) {
        let now = self.now_ns();
        let mut state = self.state.lock();
        (state.phase(settings, now), state.throttled_for(now).is_some())
    }
}

/// A breaker around one peer. Clones are handles to the same one.
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

#[derive(Debug, Default)]
struct Counts {
    calls: u64,
    failures: u64,
    rejected: u64,
    last_failure: Option<Timestamp>,
}

/// What a breaker shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// `closed`, `open` or `half-open`.
    pub status: &'static str,
    /// Whether the peer asked to wait (429) and the time is not over.
    pub throttled: bool,
    /// Calls that were let through and have ended.
    pub call_count: u64,
    /// Those of them that failed.
    pub failure_count: u64,
    /// Calls that were refused.
    pub rejected_count: u64,
    /// When the last one failed.
    pub last_failure_time: Option<Timestamp>,
}

impl Breaker {
    /// A closed breaker in memory, named for what it guards. Settings may change at any time.
    pub fn new(name: impl Into<String>, settings: Live<Settings>) -> Self {
        Self::with_backend(name, settings, Memory::default())
    }

    /// The same with its state elsewhere.
    pub fn with_backend(name: impl Into<String>, settings: Live<Settings>, backend: impl Backend) -> Self {
        let inner =
            Inner { name: name.into(), backend: Box::new(backend), settings, counts: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// What it guards.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Asks for one call.
    ///
    /// # Errors
    ///
    /// The call is refused.
    pub fn admit(&self) -> Result<Permit, Refused> {
        match self.inner.backend.admit(&self.inner.settings.look()) {
            Ok(admission) => Ok(Permit { breaker: self.clone(), admission: Some(admission) }),
            Err(refused) => {
                self.inner.counts.lock().rejected += 1;
                Err(refused)
            }
        }
    }

    /// Whether a call would be admitted now; changes nothing.
    pub fn would_admit(&self) -> bool {
        self.inner.backend.would_admit(&self.inner.settings.look())
    }

    /// What it shows of itself.
    pub fn snapshot(&self) -> Snapshot {
        let (phase, throttled) = self.inner.backend.phase(&self.inner.settings.look());
        let counts = self.inner.counts.lock();
        Snapshot {
            status: phase.as_str(),
            throttled,
            call_count: counts.calls,
            failure_count: counts.failures,
            rejected_count: counts.rejected,
            last_failure_time: counts.last_failure,
        }
    }

    fn record(&self, admission: Admission, outcome: Outcome) {
        self.inner.backend.record(admission, outcome, &self.inner.settings.look());
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

/// The right to one call. Dropped without [`Permit::end`], the call counts as cancelled.
#[must_use = "a permit that is dropped at once counts as a cancelled call"]
pub struct Permit {
    breaker: Breaker,
    admission: Option<Admission>,
}

impl Permit {
    /// Tells how the call ended.
    pub fn end(mut self, outcome: Outcome) {
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
    fn counts_calls_failures_and_rejections_apart() {
        let breaker = breaker(Duration::from_mins(1));
        breaker.admit().unwrap().end(Outcome::Success);
        breaker.admit().unwrap().end(Outcome::Failure);
        assert!(breaker.admit().is_err());
        let shown = breaker.snapshot();
        assert_eq!(
            (shown.status, shown.call_count, shown.failure_count, shown.rejected_count),
            ("open", 2, 1, 1)
        );
        assert!(shown.last_failure_time.is_some());
    }

    #[test]
    fn one_probe_passes_however_many_threads_try() {
        let breaker = breaker(Duration::ZERO);
        breaker.admit().unwrap().end(Outcome::Failure);
        let permits: Vec<Permit> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(|| breaker.admit().ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.len(), 1);
    }

    #[test]
    fn a_dropped_permit_frees_its_probe() {
        let breaker = breaker(Duration::ZERO);
        breaker.admit().unwrap().end(Outcome::Failure);
        drop(breaker.admit().unwrap());
        breaker.admit().unwrap().end(Outcome::Success);
        assert_eq!(breaker.snapshot().status, "closed");
    }
}
