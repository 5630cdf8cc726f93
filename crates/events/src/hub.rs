//! The hub: appends events to the log, and wakes the subscribers.

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use phase6_identity::Name;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    EventId, Source, Subscription, TooManyWatchers,
    log::{Entry, Log},
};

/// Shortest time between two flushes. Events in between are written to each subscriber at once.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// Largest number of events in the log.
const MAX_EVENTS: usize = 8192;
/// Largest size of the log, in bytes.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// An event to publish.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// Tenant that may see it; `None` for all tenants.
    pub tenant: Option<&'a Name>,
    /// Topic, by which subscribers select events.
    pub topic: &'static str,
    /// Kind of event: the field `event` of the stream.
    pub kind: &'a str,
    /// JSON, without line breaks.
    pub data: &'a str,
}

/// Refusal of a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeError {
    /// A topic does not exist.
    UnknownTopic {
        /// Name that was given.
        unknown: String,
        /// The topics that exist.
        topics: Vec<&'static str>,
    },
    /// Too many watchers are connected.
    TooManyWatchers {
        /// Number of watchers that are connected.
        limit: usize,
    },
}

/// Events of one process. Clones share them.
#[derive(Clone)]
pub struct Hub {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Random number of the log.
    pub(crate) number: u32,
    pub(crate) log: Mutex<Log>,
    /// Number of the last event that subscribers may read.
    pub(crate) flushed: watch::Sender<u64>,
    published: Notify,
    sources: Mutex<Vec<Arc<dyn Source>>>,
    pub(crate) stop: CancellationToken,
}

impl Hub {
    /// Creates a hub whose subscriptions end when `stop` is cancelled. One of `tasks` wakes the subscribers.
    pub fn start(tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let inner = Arc::new(Inner {
            number: rand::random(),
            log: Mutex::new(Log::new(MAX_EVENTS, MAX_BYTES)),
            flushed: watch::Sender::new(0),
            published: Notify::new(),
            sources: Mutex::default(),
            stop,
        });
        tasks.spawn(flush_until_stopped(Arc::clone(&inner)));
        Self { inner }
    }

    /// Publishes an event.
    pub fn publish(&self, event: &Event<'_>) -> EventId {
        let log = self.inner.number;
        let number = self.inner.log.lock().append(|number| Entry {
            tenant: event.tenant.cloned(),
            topic: event.topic,
            frame: frame(EventId { log, number }, event.kind, event.data),
        });
        self.inner.published.notify_one();
        EventId { log, number }
    }

    /// Adds a topic.
    pub fn declare(&self, source: Arc<dyn Source>) {
        self.inner.sources.lock().push(source);
    }

    /// Subscribes a tenant to topics; to all if none are named. `last` is the ID of the last event that the
    /// subscriber has got, if any. A subscriber whose position is not known gets a snapshot first.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe(
        &self,
        tenant: &Name,
        topics: &[&str],
        last: Option<EventId>,
    ) -> Result<Subscription, SubscribeError> {
        let all = self.inner.sources.lock().clone();
        if let Some(unknown) = topics.iter().find(|topic| !all.iter().any(|source| source.topic() == **topic))
        {
            let topics = all.iter().map(|source| source.topic()).collect();
            return Err(SubscribeError::UnknownTopic { unknown: (*unknown).to_owned(), topics });
        }
        let is_selected = |source: &Arc<dyn Source>| topics.is_empty() || topics.contains(&source.topic());
        let sources = all.into_iter().filter(is_selected).collect();
        let subscription = Subscription::new(self.clone(), tenant.clone(), sources, last);
        subscription.map_err(|TooManyWatchers { limit }| SubscribeError::TooManyWatchers { limit })
    }

    /// Number of subscriptions.
    pub fn subscribers(&self) -> usize {
        self.inner.flushed.receiver_count()
    }
}

/// Makes published events readable, at most once in each interval.
async fn flush_until_stopped(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.published.notified() => {}
        }
        let last = inner.log.lock().last();
        inner.flushed.send_replace(last);
        tokio::time::sleep(FLUSH_INTERVAL).await;
    }
}

/// Formats an event (WHATWG HTML, section 9.2.6).
pub(crate) fn frame(id: EventId, kind: &str, data: &str) -> Bytes {
    let mut text = String::with_capacity(kind.len() + data.len() + 64);
    let _ = writeln!(text, "id: {id}\nevent: {kind}");
    for line in data.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {line}");
    }
    text.push('\n');
    text.into()
}
