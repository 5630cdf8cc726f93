//! What a slower level behind the memory looks like.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use phase6_redis::WaitBudget;
use serde::Serialize;

use crate::{Entry, Invalidation, Key};

/// A level behind the memory. Errors are its own affair: it answers "nothing" and counts.
pub trait Level: Send + Sync + 'static {
    /// Told by the cache once, before anything else: whom to tell of what others have forgotten.
    fn attach(&self, _hear: Hear) {}

    /// Whether it hears at once of what others forget. If not, the memory keeps answers only briefly.
    fn is_in_touch(&self) -> bool {
        true
    }

    /// Where it is in its own history of what was forgotten; to be taken before a fetch begins.
    fn place(&self) -> u64 {
        0
    }

    /// Whether other processes store answers here too, so that it may hold a newer one than the memory.
    fn is_shared(&self) -> bool {
        false
    }

    /// Looks for an answer. If there is none that will do, a shared level may wait for another process that
    /// makes one. Of the answers under a key it holds the newest, whatever that varies by.
    fn get<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Found>;

    /// Stores an answer of this age, later. Never blocks; drops it when behind. `place` is where the level was
    /// when the fetch began, and when it is as old as `useful_for` nobody wants the answer any more.
    fn put(&self, entry: Arc<Entry>, age: Duration, place: u64, useful_for: Duration, ticket: Ticket);

    /// Forgets, later but before any answer that is put after this call. `number` is the
    /// invalidation's place in the cache's log.
    fn remove(&self, invalidation: Invalidation, number: u64);

    /// Until others have been told of all that was forgotten before.
    fn told(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Carries out what is to be done later, and says that it may be used as it is after a restart.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// What it holds and did.
    fn stats(&self) -> LevelStats;
}

/// Takes what others have forgotten.
pub type Hear = Box<dyn Fn(Invalidation) + Send + Sync>;

/// What a level is asked for, and when.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// What the answer is stored under.
    pub key: &'a Key,
    /// The headers of the request, by which an answer may have been chosen.
    pub headers: &'a HeaderMap,
    /// Asked for each look: a level may wait between two.
    pub now: &'a (dyn Fn() -> Now + Send + Sync),
    /// How long whoever asks may wait for the shared state yet.
    pub patience: WaitBudget,
    /// Whether an answer will do. If not, whoever asked will make another one.
    pub will_do: &'a (dyn Fn(&Entry) -> bool + Send + Sync),
}

/// A moment of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On its clock, in milliseconds.
    pub ms: u64,
    /// The number that the next invalidation will have.
    pub mark: u64,
}

/// What a level found.
#[derive(Default)]
pub struct Found {
    /// The answer, with the number of the newest invalidation that had been carried out when it was read.
    pub answer: Option<(Entry, u64)>,
    /// To be kept while the answer is made.
    pub ticket: Ticket,
}

/// Kept by whoever makes an answer for others too: they wait until it is dropped, or put with the answer.
pub type Ticket = Option<Box<dyn Making>>;

/// An answer in the making, for which others wait.
pub trait Making: Send + Sync {
    /// It was forgotten meanwhile: those who wait need another one.
    fn was_forgotten(self: Box<Self>);
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
    /// Whether other processes store answers here too.
    pub is_shared: bool,
    /// Whether it hears at once of what others forget.
    pub in_touch: bool,
}

/// What a level counts of itself.
#[derive(Default)]
pub(crate) struct LevelCounts {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl LevelCounts {
    /// The counts; what the level holds is for it to add.
    pub(crate) fn stats(&self) -> LevelStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LevelStats {
            hits: get(&self.hits),
            misses: get(&self.misses),
            writes: get(&self.writes),
            dropped: get(&self.dropped),
            errors: get(&self.errors),
            ..LevelStats::default()
        }
    }
}
