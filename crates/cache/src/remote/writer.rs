//! Stores responses in Redis, off the path of requests.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use phase6_redis::cmd;
use tokio::sync::mpsc;

use super::{RemoteState, log_record::StreamOffset, stored_response};
use crate::{BoxFillGuard, Entry};

/// Number of responses stored concurrently.
const CONCURRENT_WRITES: usize = 8;
/// Shortest remaining time to live of a response that is worth storing.
const MIN_TTL: Duration = Duration::from_millis(100);

/// A response that is queued to be stored.
pub(super) struct PendingWrite {
    pub(super) entry: Arc<Entry>,
    /// Offset in the log at the start of the fetch.
    pub(super) log_offset: StreamOffset,
    /// Age at which no request can use the response any more.
    pub(super) max_useful_age: Duration,
    /// Age of the response at `queued_at`.
    pub(super) age: Duration,
    pub(super) queued_at: Instant,
    /// Lock under which the response was fetched, held until the response is stored.
    pub(super) guard: Option<BoxFillGuard>,
}

pub(super) async fn run(state: Weak<RemoteState>, mut writes: mpsc::Receiver<PendingWrite>) {
    let mut batch = Vec::with_capacity(CONCURRENT_WRITES);
    while writes.recv_many(&mut batch, CONCURRENT_WRITES).await > 0 {
        let Some(state) = state.upgrade() else { return };
        join_all(batch.drain(..).map(|write| state.store(write))).await;
    }
}

impl RemoteState {
    async fn store(&self, write: PendingWrite) {
        let age = write.age + write.queued_at.elapsed();
        let Some(ttl) = write.max_useful_age.checked_sub(age).filter(|ttl| *ttl >= MIN_TTL) else { return };
        let bytes = stored_response::encode(&write.entry, write.log_offset, write.max_useful_age).await;
        let mut set = cmd("SET");
        set.arg(self.response_key(&stored_response::name(&write.entry.key)))
            .arg(bytes)
            .arg("PX")
            .arg(ttl.as_millis() as u64);
        match self.redis.command::<()>(&set).await {
            Ok(()) => {
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                self.count_failure();
            }
        }
        drop(write.guard);
    }
}
