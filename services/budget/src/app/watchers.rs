//! Limit on the number of watchers of live events.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::AppState;

/// Maximum number of watchers of one replica.
const MAX_WATCHERS: usize = 64;

/// Limit on the number of watchers. Clones share it.
#[derive(Clone, Default)]
pub struct WatcherLimit {
    count: Arc<AtomicUsize>,
}

/// Permission to watch, returned when dropped.
pub struct WatcherPermit {
    count: Arc<AtomicUsize>,
}

/// Refusal of a watcher because too many are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WATCHERS} watchers are already connected")]
pub struct TooManyWatchers;

impl WatcherLimit {
    fn acquire(&self) -> Result<WatcherPermit, TooManyWatchers> {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        // A refused watcher drops the permit, which lowers the count again.
        let permit = WatcherPermit { count: Arc::clone(&self.count) };
        if before < MAX_WATCHERS { Ok(permit) } else { Err(TooManyWatchers) }
    }
}

impl Drop for WatcherPermit {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AppState {
    /// Admits a watcher of live events.
    ///
    /// # Errors
    ///
    /// Too many watchers are connected.
    pub fn admit_watcher(&self) -> Result<WatcherPermit, TooManyWatchers> {
        self.watchers.acquire()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_that_leaves_makes_room_for_another_one() {
        let limit = WatcherLimit::default();
        let mut permits: Vec<_> = (0..MAX_WATCHERS).map(|_| limit.acquire().unwrap()).collect();
        for _ in 0..2 {
            assert_eq!(limit.acquire().err(), Some(TooManyWatchers));
        }
        permits.pop();
        assert!(limit.acquire().is_ok());
    }
}
