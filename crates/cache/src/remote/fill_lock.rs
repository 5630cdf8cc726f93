//! [`crate::fill_lock`] over Redis: one replica fetches a response while the others wait for the outcome.
//!
//! The outcome is published in the log. A waiting lookup also wakes when this replica loses the log; it then
//! fetches the response itself.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use phase6_redis::Script;
use tokio::sync::oneshot;

use super::{LOG_LENGTH, RemoteState, log_record::LogRecord};
use crate::{
    fill_lock::{FillOutcome, LOCK_TTL, RENEW_INTERVAL},
    level::FillGuard,
};

/// Pause between attempts to release the lock.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));

/// Lock held by this replica. Dropping it releases the lock with [`FillOutcome::Filled`], unless the response
/// was reported as invalidated.
pub(super) struct HeldLock {
    release: oneshot::Sender<FillOutcome>,
}

impl FillGuard for HeldLock {
    fn report_invalidated(self: Box<Self>) {
        let _ = self.release.send(FillOutcome::Invalidated);
    }
}

impl HeldLock {
    /// Starts to renew a lock that this replica has acquired or may have acquired. Renewal and release leave
    /// the lock of another replica alone.
    pub(super) fn keep(state: &Arc<RemoteState>, name: String) -> Self {
        let (release, mut released) = oneshot::channel();
        let state = Arc::clone(state);
        tokio::spawn(async move {
            let outcome = loop {
                match tokio::time::timeout(RENEW_INTERVAL, &mut released).await {
                    Ok(outcome) => break outcome.unwrap_or(FillOutcome::Filled),
                    Err(_) => state.renew_lock(&name).await,
                }
            };
            // Retried until the lock would expire anyway: the waiting replicas would otherwise wait that
            // long.
            for _ in 0..LOCK_TTL.as_millis() / RETRY_PAUSE.as_millis() {
                if state.release_lock(&name, outcome).await {
                    return;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        });
        Self { release }
    }
}

impl RemoteState {
    async fn renew_lock(&self, name: &str) {
        let mut call = RENEW.prepare_invoke();
        call.key(self.lock_key(name)).arg(&self.replica_id).arg(LOCK_TTL.as_millis() as u64);
        if self.redis.script::<u64>(&call).await.is_err() {
            self.count_failure();
        }
    }

    /// Releases the lock. Returns false if the call failed and has to be repeated.
    async fn release_lock(&self, name: &str, outcome: FillOutcome) -> bool {
        let record = LogRecord::FillEnded { name: name.to_owned(), outcome };
        let mut call = RELEASE.prepare_invoke();
        call.key(self.lock_key(name)).key(self.waiting_key(name)).key(self.log_key());
        call.arg(&self.replica_id).arg(LOG_LENGTH).arg(record.to_string());
        let released = self.redis.script::<u64>(&call).await.is_ok();
        if !released {
            self.count_failure();
        }
        released
    }
}

/// Lookups that wait for the outcome of another replica's fetch, at most one per response.
#[derive(Default)]
pub(super) struct Waiters(Mutex<HashMap<String, oneshot::Sender<FillOutcome>>>);

impl Waiters {
    /// Registers a lookup. Has to be called before the lookup finds the lock held, or the outcome could be
    /// missed.
    pub(super) fn register(&self, name: &str) -> oneshot::Receiver<FillOutcome> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert(name.to_owned(), sender);
        receiver
    }

    /// Gives an outcome to the lookup that waits for it, if there is one.
    pub(super) fn notify(&self, name: &str, outcome: FillOutcome) {
        if let Some(waiter) = self.0.lock().remove(name) {
            let _ = waiter.send(outcome);
        }
    }

    /// Removes a lookup that no longer waits.
    pub(super) fn unregister(&self, name: &str) {
        self.0.lock().remove(name);
    }

    /// Wakes every lookup without an outcome.
    pub(super) fn wake_all(&self) {
        self.0.lock().clear();
    }
}
