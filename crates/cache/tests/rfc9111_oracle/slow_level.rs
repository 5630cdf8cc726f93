//! Second level that applies changes late, and only when the sequence triggers it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use phase6_cache::{
    Entry, FoundEntry, Invalidation, Key, Level, LevelLookup, LevelQuery, LevelStats, LevelWrite,
};

use crate::origin::Environment;

enum Change {
    Store(Arc<Entry>),
    Invalidate { invalidation: Invalidation, sequence: u64 },
}

/// A level that queues all changes.
pub struct SlowLevel {
    environment: Arc<Mutex<Environment>>,
    entries: Mutex<HashMap<Key, Entry>>,
    changes: Mutex<VecDeque<Change>>,
    next_sequence: AtomicU64,
    pub is_in_sync: AtomicBool,
    is_shared: bool,
}

impl SlowLevel {
    /// Creates a level with the entries of the level before a restart, if there was one.
    pub fn new(environment: Arc<Mutex<Environment>>, is_shared: bool, before: Option<&Self>) -> Self {
        Self {
            environment,
            entries: Mutex::new(before.map_or_else(HashMap::new, |before| before.entries.lock().clone())),
            changes: Mutex::default(),
            next_sequence: AtomicU64::new(0),
            is_in_sync: AtomicBool::new(true),
            is_shared,
        }
    }

    /// Applies the oldest changes, in their order.
    pub fn apply_changes(&self, count: usize) {
        for _ in 0..count {
            match self.changes.lock().pop_front() {
                Some(Change::Store(entry)) => {
                    self.entries.lock().insert(entry.key.clone(), (*entry).clone());
                }
                Some(Change::Invalidate { invalidation, sequence }) => {
                    self.entries.lock().retain(|_, entry| !invalidation.matches(entry));
                    self.next_sequence.store(sequence + 1, Ordering::Relaxed);
                }
                None => return,
            }
        }
    }
}

impl Level for SlowLevel {
    fn is_in_sync(&self) -> bool {
        self.is_in_sync.load(Ordering::Relaxed)
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn get<'a>(&'a self, query: LevelQuery<'a>) -> BoxFuture<'a, LevelLookup> {
        Box::pin(async move {
            let next_sequence = self.next_sequence.load(Ordering::Relaxed);
            let gate = self.environment.lock().gate();
            let _ = gate.await;
            let entry = self.entries.lock().get(query.key).cloned();
            let gate = self.environment.lock().gate();
            let _ = gate.await;
            LevelLookup { found: entry.map(|entry| FoundEntry { entry, next_sequence }), guard: None }
        })
    }

    fn put(&self, write: LevelWrite) {
        self.changes.lock().push_back(Change::Store(write.entry));
    }

    fn invalidate(&self, invalidation: Invalidation, sequence: u64) {
        self.changes.lock().push_back(Change::Invalidate { invalidation, sequence });
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.apply_changes(usize::MAX);
        Box::pin(std::future::ready(()))
    }

    fn stats(&self) -> LevelStats {
        LevelStats::default()
    }
}
