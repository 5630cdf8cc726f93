//! Starts jobs, and runs each of them again and again until the service stops.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use phase6_store::{Store, Tx};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Epoch, JobSnapshot, Lease, LeaseLost, Outcome, Replicas};

mod entry;
mod singleton;

use self::entry::Entry;
pub use self::singleton::LeaseTiming;

/// Default time limit of a run.
const RUN_LIMIT: Duration = Duration::from_mins(5);
/// Requests to run a job now that may wait.
const MAX_REQUESTS: usize = 16;

/// Error of a run. It is logged and shown, so it must not contain secrets.
pub type JobError = Box<dyn Error + Send + Sync>;

type Work = Arc<dyn Fn(Run) -> BoxFuture<'static, Result<(), JobError>> + Send + Sync>;

/// Periodic work.
#[derive(Clone)]
pub struct Job {
    name: &'static str,
    period: Duration,
    limit: Duration,
    work: Work,
}

impl Job {
    /// Describes a job that runs once `period` has passed since the end of its last run, and first when it
    /// starts. A run may take up to five minutes; [`Job::with_limit`] changes that.
    pub fn new<F>(
        name: &'static str,
        period: Duration,
        work: impl Fn(Run) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        Self { name, period, limit: RUN_LIMIT, work: Arc::new(move |run| Box::pin(work(run))) }
    }

    /// Sets the time limit of a run. A run that exceeds it is abandoned and counts as failed.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

/// One run of a job, as its work sees it.
#[derive(Clone)]
pub struct Run {
    term: Option<(Lease, Epoch)>,
    stop: CancellationToken,
}

impl Run {
    /// Lets the transaction succeed only if this replica still holds the lease of the job, and keeps it until
    /// the transaction ends. Every write of a singleton belongs into such a transaction. Does nothing for a job
    /// of every replica.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`] if another replica holds the lease, and errors of the database.
    pub async fn guard(&self, tx: &mut Tx) -> Result<(), JobError> {
        match &self.term {
            Some((lease, epoch)) if !lease.guard(*epoch, tx).await? => Err(LeaseLost.into()),
            _ => Ok(()),
        }
    }

    /// Cancelled when the service shuts down. A long run should end early then.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

/// Reason why a job could not be run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunNowError {
    /// No job has this name.
    #[error("there is no job of this name")]
    Unknown,
    /// Another replica holds the lease.
    #[error("another replica holds the lease of the job")]
    Standby,
    /// The service has stopped.
    #[error("the jobs have stopped")]
    Stopped,
    /// Too many requests wait.
    #[error("too many requests to run the job are waiting")]
    Busy,
}

/// Request to run a job at once.
type Request = oneshot::Sender<Result<Outcome, RunNowError>>;

/// The jobs of one service. Clones share them.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

struct Inner {
    service: &'static str,
    /// Database of the leases.
    store: Option<Store>,
    /// Unique name of this replica.
    holder: String,
    timing: LeaseTiming,
    tasks: TaskTracker,
    stop: CancellationToken,
    started: Mutex<Vec<Started>>,
}

struct Started {
    entry: Arc<Entry>,
    requests: mpsc::Sender<Request>,
}

impl Jobs {
    /// Creates the jobs of a service. They run as `tasks` until `stop` is cancelled; a run that is in progress
    /// is completed. Singletons need a `store` to which [`MIGRATIONS`](crate::MIGRATIONS) have been applied.
    pub fn new(
        service: &'static str,
        store: Option<Store>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self::with_timing(service, store, tasks, stop, LeaseTiming::default())
    }

    /// Like [`Jobs::new`], with other times of leases.
    pub fn with_timing(
        service: &'static str,
        store: Option<Store>,
        tasks: TaskTracker,
        stop: CancellationToken,
        timing: LeaseTiming,
    ) -> Self {
        let holder = format!("{:032x}", rand::random::<u128>());
        Self {
            inner: Arc::new(Inner { service, store, holder, timing, tasks, stop, started: Mutex::default() }),
        }
    }

    /// Starts a job that every replica runs.
    pub fn every_replica(&self, job: Job) {
        let (entry, requests) = self.enter(&job, Replicas::Every);
        let run = Run { term: None, stop: self.inner.stop.clone() };
        self.inner.tasks.spawn(async move { entry.run_until_stopped(&job, &run, &mut { requests }).await });
    }

    /// Starts a job that one replica runs at a time.
    ///
    /// # Panics
    ///
    /// The service has no database.
    pub fn singleton(&self, job: Job) {
        let Inner { service, store, holder, timing, tasks, stop, .. } = &*self.inner;
        let store = store.clone().unwrap_or_else(|| {
            panic!("the job {} needs a lease, but {service} declares no database", job.name)
        });
        let (entry, requests) = self.enter(&job, Replicas::One);
        let lease = Lease::new(store, &format!("{service}/{}", job.name), holder, timing.lifetime);
        tasks.spawn(singleton::run(entry, job, lease, *timing, stop.clone(), requests));
    }

    fn enter(&self, job: &Job, replicas: Replicas) -> (Arc<Entry>, mpsc::Receiver<Request>) {
        let entry = Arc::new(Entry::new(JobSnapshot::new(job.name, replicas, job.period)));
        let (sender, receiver) = mpsc::channel(MAX_REQUESTS);
        self.inner.started.lock().push(Started { entry: Arc::clone(&entry), requests: sender });
        (entry, receiver)
    }

    /// Returns the state of every job on this replica, in the order of their start.
    pub fn snapshots(&self) -> Vec<JobSnapshot> {
        self.inner.started.lock().iter().map(|started| started.entry.snapshot()).collect()
    }

    /// Runs a job at once, and waits for the end of the run. For tests.
    ///
    /// # Errors
    ///
    /// See [`RunNowError`].
    pub async fn run_now(&self, name: &str) -> Result<Outcome, RunNowError> {
        let requests = {
            let started = self.inner.started.lock();
            let job = started.iter().find(|started| started.entry.name() == name);
            job.ok_or(RunNowError::Unknown)?.requests.clone()
        };
        let (sender, receiver) = oneshot::channel();
        requests.try_send(sender).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RunNowError::Busy,
            mpsc::error::TrySendError::Closed(_) => RunNowError::Stopped,
        })?;
        receiver.await.unwrap_or(Err(RunNowError::Stopped))
    }
}

/// True if a run failed because it lost its lease.
fn is_lease_lost(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    let mut error: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = error {
        if current.is::<LeaseLost>() {
            return true;
        }
        error = current.source();
    }
    false
}
