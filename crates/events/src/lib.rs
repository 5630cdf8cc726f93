//! Live events: published once, written to any number of subscribers as server-sent events.
//!
//! ```text
//! Source, one per topic
//!    |
//! publish(tenant, topic, data) -> Log, the newest events -> flush, at most every 50 ms
//!                                                                 |
//!        Subscription: tenant, topics, position <-----------------'  one chunk with all new events
//! ```
//!
//! Guarantees:
//!
//! * A subscriber gets every event of its tenant and topics that follows its position, in order, once.
//! * A subscriber that returns with the ID of its last event (`Last-Event-ID`) goes on after it. One whose position
//!   is no longer known, because the log has moved on, the process is another one, or nobody of its tenant has
//!   watched meanwhile, gets a snapshot first, and then all events that follow it.
//! * A slow subscriber holds no memory but its position: the log is shared, and bounded.
//! * A quiet stream carries a comment every 15 seconds. A stream ends when the service stops, and after five minutes:
//!   the client resumes it with credentials that are checked again.

mod hub;
mod id;
mod log;
mod source;
mod subscription;
mod watchers;

pub use self::{
    hub::{Event, Hub, SubscribeError},
    id::EventId,
    source::{Snapshot, Source},
    subscription::{HEARTBEAT, MAX_AGE, Subscription},
    watchers::{TooManyWatchers, Watcher, Watchers},
};
