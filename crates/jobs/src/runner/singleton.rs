//! A job that one replica runs at a time: acquires the lease, runs the job while it is renewed, and gives it up
//! when the service stops.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Entry, Job, Request, Run, RunNowError};
use crate::{Epoch, Lease};

/// Times of a lease. Together they move a job to another replica within ten seconds of the end of its holder.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// Time from the last renewal to the end of a term.
    pub lifetime: Duration,
    /// Time between two renewals.
    pub renewal: Duration,
    /// Time between two attempts of a replica that does not hold the lease.
    pub attempt: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(8),
            renewal: Duration::from_secs(2),
            attempt: Duration::from_millis(500),
        }
    }
}

/// Runs until the service stops.
pub(super) async fn run(
    entry: Arc<Entry>,
    job: Job,
    lease: Lease,
    timing: LeaseTiming,
    stop: CancellationToken,
    mut requests: mpsc::Receiver<Request>,
) {
    while let Some((epoch, acquired)) = acquire(&job, &lease, timing, &stop, &mut requests).await {
        entry.set_epoch(Some(epoch));
        let run = Run { term: Some((lease.clone(), epoch)), stop: stop.clone() };
        let is_stopped = tokio::select! {
            () = renew_until_lost(&job, &lease, epoch, acquired, timing) => false,
            () = entry.run_until_stopped(&job, &run, &mut requests) => true,
        };
        entry.set_epoch(None);
        if is_stopped {
            if let Err(error) = lease.release(epoch).await {
                tracing::warn!(job = job.name, %error, "failed to release the lease of a job; it expires");
            }
            return;
        }
        tracing::warn!(job = job.name, epoch, "lost the lease of a job");
    }
}

/// Waits for the lease. Returns the epoch of the new term, and a time before its beginning; `None` if the
/// service stops.
async fn acquire(
    job: &Job,
    lease: &Lease,
    timing: LeaseTiming,
    stop: &CancellationToken,
    requests: &mut mpsc::Receiver<Request>,
) -> Option<(Epoch, Instant)> {
    let mut has_warned = false;
    while !stop.is_cancelled() {
        let start = Instant::now();
        match lease.try_acquire().await {
            Ok(Some(epoch)) => return Some((epoch, start)),
            Ok(None) => has_warned = false,
            Err(error) => {
                if !std::mem::replace(&mut has_warned, true) {
                    tracing::warn!(job = job.name, %error, "failed to acquire the lease of a job");
                }
            }
        }
        let next = start + timing.attempt;
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep_until(next) => break,
                Some(request) = requests.recv() => {
                    // Its sender may no longer wait.
                    let _: Result<(), _> = request.send(Err(RunNowError::Standby));
                }
            }
        }
    }
    None
}

/// Renews a term until another one has begun, or until it has not been renewed for its lifetime. Both end the
/// run in progress.
async fn renew_until_lost(job: &Job, lease: &Lease, epoch: Epoch, acquired: Instant, timing: LeaseTiming) {
    let mut renewed = acquired;
    loop {
        tokio::time::sleep(timing.renewal).await;
        let start = Instant::now();
        let left = (renewed + timing.lifetime).saturating_duration_since(start);
        match tokio::time::timeout(left, lease.renew(epoch)).await {
            Ok(Ok(true)) => renewed = start,
            Ok(Err(error)) if renewed.elapsed() < timing.lifetime => {
                tracing::warn!(job = job.name, %error, "failed to renew the lease of a job");
            }
            Ok(Ok(false) | Err(_)) | Err(_) => return,
        }
    }
}
