//! One subscriber: its position in the log, and the chunks of its stream.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use phase6_identity::Name;
use tokio::{sync::watch, time::Instant};

use crate::{EventId, Hub, Source, TooManyWatchers, Watcher, hub::frame, log::Entry};

/// Longest time without a sign of life.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Longest time of a stream. A client resumes it with another request, whose credentials are checked again.
pub const MAX_AGE: Duration = Duration::from_mins(5);
/// Size from which on a chunk is written, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// A comment, which clients ignore.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// A subscription. Dropping it ends it.
pub struct Subscription {
    hub: Hub,
    tenant: Name,
    sources: Vec<Arc<dyn Source>>,
    _watchers: Vec<Watcher>,
    flushed: watch::Receiver<u64>,
    end: Instant,
    /// True once something has been delivered.
    has_opened: bool,
    /// Number of the last event that was delivered or passed over; `None` if it is not known.
    position: Option<u64>,
    /// Sources whose state is to be delivered first.
    due: Vec<Arc<dyn Source>>,
}

impl Subscription {
    pub(crate) fn new(
        hub: Hub,
        tenant: Name,
        sources: Vec<Arc<dyn Source>>,
        last: Option<EventId>,
    ) -> Result<Self, TooManyWatchers> {
        let flushed = hub.inner.flushed.subscribe();
        let watchers: Vec<Watcher> =
            sources.iter().map(|source| source.watch(&tenant, &hub)).collect::<Result<_, _>>()?;
        let newest = hub.inner.log.lock().last();
        let is_known = |last: &EventId| last.log == hub.inner.number && last.number <= newest;
        let position = last.filter(is_known).map(|last| last.number);
        // Of a source that nobody has watched, changes may not have been published.
        let is_due = |watcher: &Watcher| position.is_none() || watcher.is_first();
        let due = sources.iter().zip(&watchers).filter(|(_, watcher)| is_due(watcher));
        let due = due.map(|(source, _)| Arc::clone(source)).collect();
        Ok(Self {
            hub,
            tenant,
            sources,
            _watchers: watchers,
            flushed,
            end: Instant::now() + MAX_AGE,
            has_opened: false,
            position,
            due,
        })
    }

    /// Waits for the next chunk of the stream: one or more events, or a comment; `None` at its end, which is that of
    /// the service or five minutes after its beginning.
    pub async fn next(&mut self) -> Option<Bytes> {
        let chunk = self.next_chunk().await;
        self.has_opened = true;
        chunk
    }

    async fn next_chunk(&mut self) -> Option<Bytes> {
        let stop = self.hub.inner.stop.clone();
        let heartbeat = tokio::time::sleep(HEARTBEAT);
        tokio::pin!(heartbeat);
        loop {
            if stop.is_cancelled() || Instant::now() >= self.end {
                return None;
            }
            let Some(position) = self.position.filter(|_| self.due.is_empty()) else {
                let snapshot = tokio::select! {
                    () = stop.cancelled() => return None,
                    snapshot = self.take_snapshot() => snapshot,
                };
                if !snapshot.is_empty() {
                    return Some(snapshot);
                }
                continue;
            };
            // Marks the flush as seen before the log is read, so that none is missed.
            self.flushed.borrow_and_update();
            let following =
                self.hub.inner.log.lock().after(position, CHUNK_BYTES, |entry| self.is_visible(entry));
            match following {
                // Too slow for the log, or a position of the future.
                None => {
                    self.position = None;
                    self.due.clone_from(&self.sources);
                    continue;
                }
                Some(following) => {
                    self.position = Some(following.position);
                    if !following.chunk.is_empty() {
                        return Some(following.chunk);
                    }
                }
            }
            // A client learns at once that the stream is open.
            if !self.has_opened {
                return Some(COMMENT);
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                _ = self.flushed.changed() => {}
                () = tokio::time::sleep_until(self.end) => return None,
                () = &mut heartbeat => return Some(COMMENT),
            }
        }
    }

    fn is_visible(&self, entry: &Entry) -> bool {
        let is_own = entry.tenant.as_ref().is_none_or(|tenant| *tenant == self.tenant);
        is_own && self.sources.iter().any(|source| source.topic() == entry.topic)
    }

    /// Returns the state of the topics that are due. Events that are published meanwhile follow it.
    async fn take_snapshot(&mut self) -> Bytes {
        let number = self.position.unwrap_or_else(|| self.hub.inner.log.lock().last());
        let id = EventId { log: self.hub.inner.number, number };
        let mut frames = BytesMut::new();
        for source in &self.due {
            for (kind, data) in source.snapshot(&self.tenant).await {
                frames.extend_from_slice(&frame(id, &kind, &data));
            }
        }
        self.position = Some(number);
        self.due.clear();
        frames.freeze()
    }

    /// Returns the chunks as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(self, |mut subscription| async move {
            let chunk = subscription.next().await?;
            Some((chunk, subscription))
        })
    }
}
