//! One subscriber: its position in the log, and the chunks of its stream.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture, stream};
use phase6_identity::Name;
use tokio::sync::watch;

use crate::{EventId, Hub, hub::frame, log::Entry};

/// Longest time without a sign of life.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Size from which on a chunk is written, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// A comment, which clients ignore.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Makes the snapshot for a subscriber: kind and JSON data of an event; `None` for no snapshot.
pub type Snapshot = Arc<dyn Fn() -> BoxFuture<'static, Option<(&'static str, String)>> + Send + Sync>;

/// Events that a subscriber gets.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Tenant of the subscriber.
    pub tenant: Name,
    /// Topics; all if empty.
    pub topics: Vec<&'static str>,
}

impl Filter {
    fn accepts(&self, entry: &Entry) -> bool {
        let is_own = entry.tenant.as_ref().is_none_or(|tenant| *tenant == self.tenant);
        is_own && (self.topics.is_empty() || self.topics.contains(&entry.topic))
    }
}

/// A subscription. Dropping it ends it.
pub struct Subscription {
    hub: Hub,
    filter: Filter,
    snapshot: Snapshot,
    flushed: watch::Receiver<u64>,
    /// Number of the last event that was delivered or passed over; `None` if a snapshot is due.
    position: Option<u64>,
}

impl Subscription {
    pub(crate) fn new(hub: Hub, filter: Filter, last: Option<EventId>, snapshot: Snapshot) -> Self {
        let flushed = hub.inner.flushed.subscribe();
        let position = last.filter(|last| last.log == hub.inner.number).map(|last| last.number);
        Self { hub, filter, snapshot, flushed, position }
    }

    /// Waits for the next chunk of the stream: one or more events, or a comment; `None` once the service stops.
    pub async fn next(&mut self) -> Option<Bytes> {
        let stop = self.hub.inner.stop.clone();
        let heartbeat = tokio::time::sleep(HEARTBEAT);
        tokio::pin!(heartbeat);
        loop {
            if stop.is_cancelled() {
                return None;
            }
            let Some(position) = self.position else {
                if let Some(chunk) = self.take_snapshot().await {
                    return Some(chunk);
                }
                continue;
            };
            // Marks the flush as seen before the log is read, so that none is missed.
            self.flushed.borrow_and_update();
            let following =
                self.hub.inner.log.lock().after(position, CHUNK_BYTES, |entry| self.filter.accepts(entry));
            match following {
                // Too slow for the log, or a position of the future.
                None => {
                    self.position = None;
                    continue;
                }
                Some(following) => {
                    self.position = Some(following.position);
                    if !following.chunk.is_empty() {
                        return Some(following.chunk);
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                _ = self.flushed.changed() => {}
                () = &mut heartbeat => return Some(COMMENT),
            }
        }
    }

    /// Makes the snapshot. Events that are published meanwhile follow it.
    async fn take_snapshot(&mut self) -> Option<Bytes> {
        let number = self.hub.inner.log.lock().last();
        let snapshot = (self.snapshot)().await;
        self.position = Some(number);
        let (kind, data) = snapshot?;
        Some(frame(Some(EventId { log: self.hub.inner.number, number }), kind, &data))
    }

    /// Returns the chunks as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(self, |mut subscription| async move {
            let chunk = subscription.next().await?;
            Some((chunk, subscription))
        })
    }
}
