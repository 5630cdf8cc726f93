//! Numbers that many threads count and few look at.
//!
//! Each thread counts in a part of its own, which nobody else writes: adding is a load and a store, where
//! an addition that threads share would hold the processor up at every request. Who looks adds the parts
//! up. A part outlives its thread, and the next thread goes on with it: there are as many as there ever
//! were threads at a time.

use std::sync::atomic::{AtomicU64, Ordering};

use thread_local::ThreadLocal;

/// A number that one thread writes and others may read.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds. Two threads at once would lose one of the additions.
    pub(crate) fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    /// Takes a new value.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a new value. Who sees it with [`Count::noticed`] sees as well what was counted before.
    pub(crate) fn announce(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// The value, see [`Count::announce`].
    pub(crate) fn noticed(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A `T` for each thread.
#[derive(Debug)]
pub(crate) struct Parts<T: Send>(ThreadLocal<Box<Part<T>>>);

/// On cache lines of its own: what one thread writes, another one need not fetch.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part<T>(T);

impl<T: Send> Default for Parts<T> {
    fn default() -> Self {
        Self(ThreadLocal::new())
    }
}

impl<T: Default + Send + Sync> Parts<T> {
    /// The running thread's own.
    pub(crate) fn mine(&self) -> &T {
        &self.0.get_or_default().0
    }

    /// Those of all threads.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|part| &part.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_count_apart_adds_up_and_stays_when_they_have_ended() {
        let parts = Parts::<Count>::default();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..1_000).for_each(|_| parts.mine().add(1)));
                }
            });
        }
        assert_eq!(parts.all().map(Count::get).sum::<u64>(), 12_000);
        assert!(parts.all().count() <= 12, "a thread goes on with what another one left");
    }
}
