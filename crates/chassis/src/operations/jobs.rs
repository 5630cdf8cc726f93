//! Snapshots and metric series of jobs.

use phase6_jobs::{JobSnapshot, Jobs, Outcome, Replicas};
use serde_json::json;

use super::{ComponentKind, Registrar, series::Values};

/// Registers the jobs that the service has started.
pub(crate) fn register_jobs(registrar: &Registrar<'_>, jobs: &Jobs) {
    for JobSnapshot { name, .. } in jobs.snapshots() {
        let jobs = jobs.clone();
        registrar.snapshot(ComponentKind::Job, name, move || {
            jobs.snapshots()
                .into_iter()
                .find(|job| job.name == name)
                .map_or_else(Default::default, |job| json!(job))
        });
    }
    let all = jobs.clone();
    registrar.counters(
        "phase6_job_runs_total",
        "Runs of a job on this replica, by outcome",
        &["job", "outcome"],
        move || {
            let counts = |job: JobSnapshot| {
                Outcome::ALL.map(|outcome| {
                    (vec![job.name.to_owned(), outcome.as_str().to_owned()], job.count(outcome) as f64)
                })
            };
            all.snapshots().into_iter().flat_map(counts).collect()
        },
    );
    let gauge = |name, help, value: fn(&JobSnapshot) -> Option<f64>| {
        let jobs = jobs.clone();
        registrar.gauges(name, help, &["job"], move || values(&jobs, value));
    };
    gauge(
        "phase6_job_last_success_timestamp_seconds",
        "Unix time of the end of a job's last successful run on this replica",
        |job| job.last_success.map(|time| time.as_millisecond() as f64 / 1000.0),
    );
    gauge("phase6_job_lag_seconds", "Delay of a job's last run behind its due time, in seconds", |job| {
        Some(job.lag_ms / 1000.0)
    });
    gauge(
        "phase6_job_lease_held",
        "1 if this replica holds the lease of a job that one replica runs, 0 if not",
        |job| (job.replicas == Replicas::One).then(|| f64::from(u8::from(job.epoch.is_some()))),
    );
}

fn values(jobs: &Jobs, value: impl Fn(&JobSnapshot) -> Option<f64>) -> Values {
    let jobs = jobs.snapshots().into_iter();
    jobs.filter_map(|job| Some((vec![job.name.to_owned()], value(&job)?))).collect()
}
