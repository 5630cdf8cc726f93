//! What a slower level behind the memory looks like.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::{Entry, Invalidation, Key};

/// A level behind the memory. Errors are its own affair: it answers "nothing" and counts.
pub trait Level: Send + Sync + 'static {
    /// The answer stored under `key`, with the number of the newest invalidation that had been
    /// carried out when it was read. Answers that vary by request headers are not asked for.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<(Entry, u64)>>;

    /// Stores an answer, later. Never blocks; drops it when behind.
    fn put(&self, entry: Arc<Entry>);

    /// Forgets, later but before any answer that is put after this call. `number` is the
    /// invalidation's place in the cache's log.
    fn remove(&self, invalidation: Invalidation, number: u64);

    /// Carries out what is to be done later, and says that it may be used as it is after a restart.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// What it holds and did.
    fn stats(&self) -> LevelStats;
}

/// What a level holds and did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LevelStats {
    /// Answers found.
    pub hits: u64,
    /// Answers asked for and not found.
    pub misses: u64,
    /// Answers stored.
    pub writes: u64,
    /// Answers not stored because it was behind.
    pub dropped: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Answers held, about.
    pub entries: u64,
    /// Bytes held, about.
    pub bytes: u64,
}
