//! One started job: its state, and the loop of its runs.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use super::{Job, JobError, Request, Run, is_lease_lost};
use crate::{Epoch, JobSnapshot, Outcome, RetryDelay};

/// State of a started job.
pub(super) struct Entry {
    snapshot: Mutex<JobSnapshot>,
}

/// A run in progress. A run that is dropped before its end was abandoned with its lease.
struct InProgress<'a> {
    entry: &'a Entry,
    start: Instant,
    is_complete: bool,
}

impl Entry {
    pub(super) fn new(snapshot: JobSnapshot) -> Self {
        Self { snapshot: Mutex::new(snapshot) }
    }

    pub(super) fn name(&self) -> &'static str {
        self.snapshot.lock().name
    }

    pub(super) fn snapshot(&self) -> JobSnapshot {
        self.snapshot.lock().clone()
    }

    pub(super) fn set_epoch(&self, epoch: Option<Epoch>) {
        self.snapshot.lock().epoch = epoch;
    }

    /// Runs a job again and again until the service stops. A run that is in progress then is completed.
    pub(super) async fn run_until_stopped(
        &self,
        job: &Job,
        run: &Run,
        requests: &mut mpsc::Receiver<Request>,
    ) {
        let mut delays = RetryDelay::new(job.period);
        let mut due = Instant::now();
        let mut request = None;
        while !run.stop.is_cancelled() {
            let outcome = self.run_once(job, run.clone(), due).await;
            if let Some(request) = request.take() {
                // Its sender may no longer wait.
                let _: Result<(), _> = Request::send(request, Ok(outcome));
            }
            let delay = match outcome {
                Outcome::Succeeded => delays.after_success(),
                Outcome::Failed | Outcome::LeaseLost => delays.after_failure(rand::random()),
            };
            self.snapshot.lock().consecutive_failures = delays.failures();
            due = Instant::now() + delay;
            tokio::select! {
                () = run.stop.cancelled() => {}
                () = tokio::time::sleep_until(due) => {}
                Some(received) = requests.recv() => {
                    request = Some(received);
                    due = Instant::now();
                }
            }
        }
    }

    async fn run_once(&self, job: &Job, run: Run, due: Instant) -> Outcome {
        let in_progress = self.begin(due);
        // A panic of one job must not end the others, nor its own next runs.
        let work = AssertUnwindSafe((job.work)(run)).catch_unwind();
        let result = match tokio::time::timeout(job.limit, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the work panicked".into()),
            Err(_) => Err(exceeded(job.limit)),
        };
        in_progress.complete(result)
    }

    fn begin(&self, due: Instant) -> InProgress<'_> {
        let start = Instant::now();
        let mut snapshot = self.snapshot.lock();
        snapshot.is_running = true;
        snapshot.lag_ms = milliseconds(start.saturating_duration_since(due));
        InProgress { entry: self, start, is_complete: false }
    }

    fn end(&self, start: Instant, outcome: Outcome, error: Option<String>) {
        let now = Timestamp::now();
        let mut snapshot = self.snapshot.lock();
        snapshot.is_running = false;
        snapshot.last_end = Some(now);
        snapshot.last_duration_ms = Some(milliseconds(start.elapsed()));
        snapshot.last_outcome = Some(outcome);
        snapshot.last_error = error;
        match outcome {
            Outcome::Succeeded => {
                snapshot.succeeded += 1;
                snapshot.last_success = Some(now);
            }
            Outcome::Failed => snapshot.failed += 1,
            Outcome::LeaseLost => snapshot.lease_lost += 1,
        }
    }
}

impl InProgress<'_> {
    fn complete(mut self, result: Result<(), JobError>) -> Outcome {
        self.is_complete = true;
        let Err(error) = result else {
            self.entry.end(self.start, Outcome::Succeeded, None);
            return Outcome::Succeeded;
        };
        let job = self.entry.name();
        let outcome = if is_lease_lost(&*error) { Outcome::LeaseLost } else { Outcome::Failed };
        tracing::warn!(job, %error, outcome = outcome.as_str(), "a job failed");
        self.entry.end(self.start, outcome, Some(error.to_string()));
        outcome
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        if !self.is_complete {
            tracing::warn!(job = self.entry.name(), "a run was abandoned, because its lease was lost");
            self.entry.end(self.start, Outcome::LeaseLost, Some("the lease was lost during the run".into()));
        }
    }
}

fn exceeded(limit: Duration) -> JobError {
    format!("the run took longer than {} s", limit.as_secs_f64()).into()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
