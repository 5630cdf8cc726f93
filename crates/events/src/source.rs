//! Topics: where their events come from.

use futures_util::future::BoxFuture;
use phase6_identity::Name;

use crate::{Hub, TooManyWatchers, Watcher};

/// State of a topic: events that a new subscriber gets first, each with its kind and its JSON.
pub type Snapshot = Vec<(String, String)>;

/// A topic of the hub, and the source of its events.
pub trait Source: Send + Sync + 'static {
    /// Name of the topic.
    fn topic(&self) -> &'static str;

    /// Returns the state for a tenant.
    fn snapshot(&self, tenant: &Name) -> BoxFuture<'static, Snapshot>;

    /// Begins to publish to `hub` for a tenant, until the last of its watchers leaves.
    ///
    /// # Errors
    ///
    /// Too many watchers are connected.
    fn watch(&self, tenant: &Name, hub: &Hub) -> Result<Watcher, TooManyWatchers>;
}
