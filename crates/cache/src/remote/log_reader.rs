//! Reads the invalidation log: blocks at its end, and applies other replicas' invalidations to the memory.

use std::{
    sync::{Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use phase6_redis::{BLOCK_LIMIT, RedisError, cmd};

use super::{
    LOG_TTL, RemoteState,
    invalidation_index::InvalidationIndex,
    log_record::{LogRecord, ParsedRecord, RawRecord, StreamOffset},
};
use crate::Invalidation;

/// Largest number of log records in one reply.
const PAGE: usize = 1_000;
/// Pause after a failed read.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Time between two extensions of the log's life.
const EXTEND_INTERVAL: Duration = Duration::from_mins(10);

/// State of the connection to the log, as last logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoggedState {
    Unknown,
    Connected,
    Disconnected,
}

pub(super) async fn run(state: Weak<RemoteState>) {
    let mut is_caught_up = false;
    let mut logged = LoggedState::Unknown;
    let mut extended_at: Option<Instant> = None;
    loop {
        let pause = {
            let Some(state) = state.upgrade() else { return };
            let result = if is_caught_up { state.read_next().await } else { state.catch_up().await };
            if is_caught_up && extended_at.is_none_or(|at| at.elapsed() >= EXTEND_INTERVAL) {
                state.extend_log().await;
                extended_at = Some(Instant::now());
            }
            match result {
                Ok(()) => {
                    if logged != LoggedState::Connected {
                        tracing::info!(prefix = state.redis.prefix(), "cache is shared through Redis");
                    }
                    (is_caught_up, logged) = (true, LoggedState::Connected);
                    Duration::ZERO
                }
                Err(error) => {
                    state.count_failure();
                    state.waiters.wake_all();
                    if logged != LoggedState::Disconnected {
                        tracing::warn!(
                            prefix = state.redis.prefix(),
                            %error,
                            "failed to read the invalidation log; responses are cached for one second at most"
                        );
                    }
                    (is_caught_up, logged) = (false, LoggedState::Disconnected);
                    RETRY_PAUSE
                }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl RemoteState {
    /// Continues at the offset that this replica has read; if the log no longer has it, invalidates
    /// everything.
    async fn catch_up(&self) -> Result<(), RedisError> {
        let known = self.index.lock().as_ref().map(InvalidationIndex::offset);
        if let Some(offset) = known {
            let mut range = cmd("XRANGE");
            range.arg(self.log_key()).arg(offset.to_string()).arg(offset.to_string());
            if !self.redis.blocking_command::<Vec<RawRecord>>(&range).await?.is_empty() {
                return self.read_next().await;
            }
        }
        let requested_at_ms = self.now_ms();
        let mut page = self.read_page(None).await?;
        if page.is_empty() {
            // A response needs an offset, so that it is older than every later invalidation.
            self.append([LogRecord::Start]).await;
            page = self.read_page(None).await?;
        }
        let Some(first) = page.first().and_then(ParsedRecord::parse).map(|record| record.offset) else {
            return Err(RedisError::Rejected("the invalidation log of the cache is not readable".to_owned()));
        };
        // Also needed at the start, because entries stored in memory before the log was read may have been
        // invalidated since.
        self.notify_listener(Invalidation::All);
        if let Some(offset) = known {
            tracing::warn!(
                prefix = self.redis.prefix(),
                "invalidations by other replicas may have been missed; the cache was emptied"
            );
            if first <= offset {
                // Redis lost the end of the log, and with it invalidations of responses that may still be
                // stored.
                self.append([LogRecord::Invalidated(Invalidation::All)]).await;
            }
        }
        self.index.lock().get_or_insert_default().reset(first);
        while let Some((last_id, _)) = page.last() {
            let last_id = last_id.clone();
            self.apply_records(&page);
            page = self.read_page(Some(&last_id)).await?;
        }
        self.set_synced_at(requested_at_ms);
        Ok(())
    }

    /// Waits for the next records of the log and applies them.
    async fn read_next(&self) -> Result<(), RedisError> {
        let offset = self.index.lock().as_ref().map_or(StreamOffset::default(), InvalidationIndex::offset);
        let requested_at_ms = self.now_ms();
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("BLOCK").arg(BLOCK_LIMIT.as_millis() as u64);
        read.arg("STREAMS").arg(self.log_key()).arg(offset.to_string());
        let streams = self.redis.blocking_command::<Option<Vec<(String, Vec<RawRecord>)>>>(&read).await?;
        let records: Vec<RawRecord> =
            streams.into_iter().flatten().flat_map(|(_, records)| records).collect();
        self.apply_records(&records);
        // A full page may not be the last one.
        if records.len() < PAGE {
            self.set_synced_at(requested_at_ms);
        }
        Ok(())
    }

    async fn read_page(&self, after: Option<&str>) -> Result<Vec<RawRecord>, RedisError> {
        let start = after.map_or_else(|| "-".to_owned(), |last_id| format!("({last_id}"));
        let mut range = cmd("XRANGE");
        range.arg(self.log_key()).arg(start).arg("+").arg("COUNT").arg(PAGE);
        self.redis.blocking_command(&range).await
    }

    /// Applies records in their order: to the memory first, then to the index and the waiting lookups.
    fn apply_records(&self, records: &[RawRecord]) {
        for raw in records {
            let ParsedRecord { offset, replica_id, record } =
                ParsedRecord::parse(raw).unwrap_or_else(ParsedRecord::unreadable);
            if let Some(invalidation) = record.invalidation()
                && replica_id != self.replica_id
            {
                self.notify_listener(invalidation.clone());
            }
            if let Some(index) = self.index.lock().as_mut() {
                index.advance(offset.max(index.offset()), record.invalidation().cloned());
            }
            if let LogRecord::FillEnded { name, outcome } = &record {
                self.waiters.notify(name, *outcome);
            }
        }
    }

    fn notify_listener(&self, invalidation: Invalidation) {
        if let Some(listener) = self.listener.get() {
            listener(invalidation);
        }
    }

    /// Records that every invalidation before `requested_at_ms` has been applied.
    fn set_synced_at(&self, requested_at_ms: u64) {
        self.synced_at_ms.store(requested_at_ms.max(1), Ordering::Relaxed);
    }

    async fn extend_log(&self) {
        let mut expire = cmd("PEXPIRE");
        expire.arg(self.log_key()).arg(LOG_TTL.as_millis() as u64);
        if self.redis.command::<i64>(&expire).await.is_err() {
            self.count_failure();
        }
    }
}
