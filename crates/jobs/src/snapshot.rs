//! State of a job, for people and for metrics.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::Epoch;

/// Replicas on which a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Replicas {
    /// Every replica runs it.
    Every,
    /// The holder of a lease runs it.
    One,
}

/// Result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The work succeeded.
    Succeeded,
    /// The work failed, panicked, or exceeded its time limit.
    Failed,
    /// The lease was lost during the run, which was abandoned.
    LeaseLost,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::LeaseLost];

    /// Value of the metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::LeaseLost => "lease_lost",
        }
    }
}

/// State of a job on this replica.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSnapshot {
    /// Name of the job.
    pub name: &'static str,
    /// Replicas on which it runs.
    pub replicas: Replicas,
    /// Time between two runs, in seconds.
    pub period_seconds: f64,
    /// True while a run is in progress.
    pub is_running: bool,
    /// Epoch of the lease; absent if this replica does not hold it, and for jobs of every replica.
    pub epoch: Option<Epoch>,
    /// Runs since the start of the replica, by outcome.
    pub succeeded: u64,
    /// Failed runs since the start of the replica.
    pub failed: u64,
    /// Abandoned runs since the start of the replica.
    pub lease_lost: u64,
    /// Failed runs since the last success.
    pub consecutive_failures: u32,
    /// Outcome of the last run.
    pub last_outcome: Option<Outcome>,
    /// Error of the last run, if it failed.
    pub last_error: Option<String>,
    /// End of the last run.
    pub last_end: Option<Timestamp>,
    /// End of the last successful run.
    pub last_success: Option<Timestamp>,
    /// Duration of the last run, in milliseconds.
    pub last_duration_ms: Option<f64>,
    /// Delay of the last run behind its due time, in milliseconds.
    pub lag_ms: f64,
}

impl JobSnapshot {
    pub(crate) fn new(name: &'static str, replicas: Replicas, period: Duration) -> Self {
        Self {
            name,
            replicas,
            period_seconds: period.as_secs_f64(),
            is_running: false,
            epoch: None,
            succeeded: 0,
            failed: 0,
            lease_lost: 0,
            consecutive_failures: 0,
            last_outcome: None,
            last_error: None,
            last_end: None,
            last_success: None,
            last_duration_ms: None,
            lag_ms: 0.0,
        }
    }

    /// Number of runs with an outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Succeeded => self.succeeded,
            Outcome::Failed => self.failed,
            Outcome::LeaseLost => self.lease_lost,
        }
    }
}
