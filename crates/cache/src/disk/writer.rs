//! Applies queued changes to the file, in batches.

use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    DiskState,
    rows::{invalidate, store},
};
use crate::{Entry, Invalidation};

/// Largest number of changes in one transaction.
const BATCH: usize = 64;
/// Longest time, in milliseconds, that a response stays on disk, whatever a later policy allows: 48 hours.
const MAX_AGE_MS: u64 = 48 * 3_600_000;

/// A queued change of the file.
pub(super) enum Change {
    Store(Arc<Entry>),
    Invalidate {
        invalidation: Invalidation,
        sequence: u64,
    },
    /// Marks the file as closed once all earlier changes are applied, and then answers `done`.
    Close {
        done: oneshot::Sender<()>,
    },
}

impl DiskState {
    /// Applies changes until the level is dropped.
    pub(super) async fn apply_changes(self: Arc<Self>, mut changes: mpsc::Receiver<Change>) {
        let mut batch = Vec::with_capacity(BATCH);
        while changes.recv_many(&mut batch, BATCH).await > 0 {
            let wipe = self.wipe.swap(false, Ordering::AcqRel);
            let wiped_up_to = wipe.then(|| self.wiped_up_to.load(Ordering::Acquire));
            if wipe {
                // Responses in the queue may be older than the invalidation that did not fit into it.
                while let Ok(change) = changes.try_recv() {
                    batch.push(change);
                }
                let queued = batch.len();
                batch.retain(|change| !matches!(change, Change::Store(_)));
                self.counters.dropped.fetch_add((queued - batch.len()) as u64, Ordering::Relaxed);
            }
            if let Err(error) = self.apply_batch(&batch, wipe).await {
                self.record_failure(&error);
                self.counters.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                // An invalidation must not be lost: the next batch empties the level.
                if batch.iter().any(|change| matches!(change, Change::Invalidate { .. })) || wipe {
                    self.wipe.store(true, Ordering::Release);
                    batch.clear();
                    continue;
                }
            }
            let applied = batch.iter().filter_map(|change| match change {
                Change::Invalidate { sequence, .. } => Some(sequence + 1),
                Change::Store(_) | Change::Close { .. } => None,
            });
            if let Some(next_sequence) = applied.chain(wiped_up_to).max() {
                self.next_sequence.fetch_max(next_sequence, Ordering::Release);
            }
            for change in batch.drain(..) {
                if let Change::Close { done } = change {
                    let _ = done.send(());
                }
            }
        }
    }

    /// Applies a batch in one transaction, which also removes what is too old or exceeds the size limit.
    async fn apply_batch(&self, batch: &[Change], wipe: bool) -> Result<(), sqlx::Error> {
        let pool = self.pool().await?;
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        if wipe {
            sqlx::raw_sql("DELETE FROM entries; DELETE FROM tags").execute(&mut *tx).await?;
        }
        let mut written = 0;
        for change in batch {
            match change {
                Change::Store(entry) => {
                    store(&mut tx, entry).await?;
                    written += 1;
                }
                Change::Invalidate { invalidation, .. } => invalidate(&mut tx, invalidation).await?,
                Change::Close { .. } => {}
            }
        }
        let closing = matches!(batch.last(), Some(Change::Close { .. }));
        let in_use = if closing { "PRAGMA user_version = 0" } else { "PRAGMA user_version = 1" };
        sqlx::raw_sql(in_use).execute(&mut *tx).await?;
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let oldest = (now_ms as u64).saturating_sub(MAX_AGE_MS);
        sqlx::query("DELETE FROM entries WHERE stored_at_ms < ?1")
            .bind(oldest as i64)
            .execute(&mut *tx)
            .await?;
        if self.bytes.load(Ordering::Relaxed) > self.max_bytes {
            // Removes the oldest tenth of the entries at a time.
            sqlx::query(
                "DELETE FROM entries WHERE stored_at_ms <= (SELECT stored_at_ms FROM entries
                 ORDER BY stored_at_ms LIMIT 1 OFFSET (SELECT COUNT(*) / 10 FROM entries))",
            )
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "DELETE FROM tags WHERE NOT EXISTS
             (SELECT 1 FROM entries e WHERE e.tenant = tags.tenant AND e.uri = tags.uri)",
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        // The entries are counted before the writes are published, so a reader of the write count sees current
        // entry counts.
        let measured = self.measure(pool).await;
        self.counters.writes.fetch_add(written, Ordering::Release);
        measured
    }
}
