//! Publishes this replica's invalidations in the log, off the path of requests.

use std::{
    collections::HashSet,
    sync::{LazyLock, Weak},
    time::Duration,
};

use phase6_redis::Script;

use super::{LOG_LENGTH, LOG_TTL, RemoteState, log_record::LogRecord};
use crate::Invalidation;

/// Largest number of unpublished invalidations; beyond it they are replaced by [`Invalidation::All`].
const MAX_UNPUBLISHED: usize = 1024;
/// Pause between two publications, within which repeated invalidations are merged.
const MERGE_PAUSE: Duration = Duration::from_millis(5);
/// Pause between attempts while Redis is unreachable.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

static APPEND_LOG: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("append_log.lua")));

/// Invalidations by this replica that are not in the log yet.
#[derive(Default)]
pub(super) struct UnpublishedInvalidations {
    waiting: HashSet<Invalidation>,
    /// Sequence number of the oldest waiting invalidation.
    oldest_waiting: Option<u64>,
    /// Sequence number of the oldest invalidation that is being published.
    oldest_in_flight: Option<u64>,
}

impl UnpublishedInvalidations {
    pub(super) fn add(&mut self, invalidation: Invalidation, sequence: u64) {
        if self.waiting.len() >= MAX_UNPUBLISHED {
            self.waiting.clear();
            self.waiting.insert(Invalidation::All);
        } else {
            self.waiting.insert(invalidation);
        }
        self.oldest_waiting.get_or_insert(sequence);
    }

    /// Returns the sequence number of the oldest invalidation that is not published.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.oldest_in_flight.or(self.oldest_waiting)
    }

    /// Takes the waiting invalidations to publish them.
    fn take(&mut self) -> Vec<Invalidation> {
        self.oldest_in_flight = self.oldest_waiting.take();
        self.waiting.drain().collect()
    }

    /// Ends the publication of the invalidations that were taken; `failed` are those to publish again.
    fn finish(&mut self, failed: Option<Vec<Invalidation>>) {
        let oldest = self.oldest_in_flight.take();
        for invalidation in failed.into_iter().flatten() {
            self.add(invalidation, 0);
            self.oldest_waiting = oldest;
        }
    }
}

/// Result of one attempt to publish.
enum Publication {
    NothingToPublish,
    Published,
    Failed,
}

pub(super) async fn run(state: Weak<RemoteState>) {
    loop {
        let pause = {
            let Some(state) = state.upgrade() else { return };
            match state.publish().await {
                Publication::NothingToPublish => {
                    // The time limit lets the task notice that the level was dropped.
                    let _ = tokio::time::timeout(Duration::from_secs(1), state.publish_requested.notified())
                        .await;
                    Duration::ZERO
                }
                Publication::Published => MERGE_PAUSE,
                Publication::Failed => RETRY_PAUSE,
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl RemoteState {
    /// Publishes the waiting invalidations.
    async fn publish(&self) -> Publication {
        let invalidations = self.unpublished.lock().take();
        if invalidations.is_empty() {
            self.unpublished.lock().finish(None);
            return Publication::NothingToPublish;
        }
        let published = self.append(invalidations.iter().cloned().map(LogRecord::Invalidated)).await;
        self.unpublished.lock().finish((!published).then_some(invalidations));
        self.publish_attempted.notify_waiters();
        if published { Publication::Published } else { Publication::Failed }
    }

    /// Appends records to the log. Returns true if it succeeded.
    pub(super) async fn append(&self, records: impl IntoIterator<Item = LogRecord>) -> bool {
        let mut call = APPEND_LOG.prepare_invoke();
        call.key(self.log_key()).arg(&self.replica_id).arg(LOG_TTL.as_millis() as u64).arg(LOG_LENGTH);
        for record in records {
            call.arg(record.to_string());
        }
        let appended = self.redis.script::<u64>(&call).await.is_ok();
        if !appended {
            self.count_failure();
        }
        appended
    }

    /// Waits until all earlier invalidations are published.
    pub(super) async fn wait_until_published(&self) {
        loop {
            let attempted = self.publish_attempted.notified();
            if self.unpublished.lock().oldest().is_none() {
                return;
            }
            attempted.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_publication_is_repeated_under_its_first_sequence_number() {
        let mut unpublished = UnpublishedInvalidations::default();
        unpublished.add(Invalidation::Tag("red".into()), 3);
        unpublished.add(Invalidation::Tag("red".into()), 4);
        let taken = unpublished.take();
        assert_eq!((taken.len(), unpublished.oldest()), (1, Some(3)));
        unpublished.add(Invalidation::All, 9);
        assert_eq!(unpublished.oldest(), Some(3));
        unpublished.finish(Some(taken));
        assert_eq!(unpublished.oldest(), Some(3));
        assert_eq!(unpublished.take().len(), 2);
        unpublished.finish(None);
        assert_eq!(unpublished.oldest(), None);
    }

    #[test]
    fn too_many_invalidations_become_one_of_everything() {
        let mut unpublished = UnpublishedInvalidations::default();
        for i in 0..=MAX_UNPUBLISHED as u64 {
            unpublished.add(Invalidation::Path(format!("/{i}")), i);
        }
        assert_eq!(unpublished.take(), [Invalidation::All]);
        assert_eq!(unpublished.oldest(), Some(0));
    }
}
