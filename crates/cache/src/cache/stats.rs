//! Counters of a cache, and the figures derived from them.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::LevelStats;

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) stale_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) invalidated: AtomicU64,
    pub(crate) promoted: AtomicU64,
}

/// Content of a cache and its counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Requests served with a fresh entry.
    pub hits: u64,
    /// Requests served with a stale entry.
    pub stale_hits: u64,
    /// Requests for which the handler was called.
    pub misses: u64,
    /// Requests that waited for another one's fetch.
    pub joined: u64,
    /// Share of requests served without a call of the handler, from 0 to 1.
    pub hit_rate: f64,
    /// Responses stored.
    pub writes: u64,
    /// Responses removed from memory by invalidations.
    pub invalidated: u64,
    /// Responses copied from the second level into memory.
    pub promoted: u64,
    /// Responses in memory.
    pub entries: usize,
    /// Fetches in progress.
    pub in_flight: usize,
    /// Second level, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_level: Option<LevelStats>,
}

impl Counters {
    /// Returns the counts; the cache adds its content.
    pub(super) fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, stale_hits, misses, joined) =
            (get(&self.hits), get(&self.stale_hits), get(&self.misses), get(&self.joined));
        let without_handler = hits + stale_hits + joined;
        let total = without_handler + misses;
        Stats {
            hits,
            stale_hits,
            misses,
            joined,
            hit_rate: if total == 0 { 0.0 } else { without_handler as f64 / total as f64 },
            writes: get(&self.writes),
            invalidated: get(&self.invalidated),
            promoted: get(&self.promoted),
            ..Stats::default()
        }
    }
}
