//! Counters that many threads increment and few read.
//!
//! Each thread writes to its own slot, so an increment is a plain load and store and never contends with
//! other threads. Readers add the slots up. A slot outlives its thread and is reused by a later one: there
//! are at most as many slots as threads were alive at one time.

use std::sync::atomic::{AtomicU64, Ordering};

use thread_local::ThreadLocal;

/// A counter with one writing thread and any number of reading ones.
#[derive(Debug, Default)]
pub(crate) struct SingleWriterCounter(AtomicU64);

impl SingleWriterCounter {
    /// Adds `amount`. Not a read-modify-write: two threads adding at once would lose an addition.
    pub(crate) fn add(&self, amount: u64) {
        self.set(self.get().wrapping_add(amount));
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value. A reader that sees it through [`Self::load_acquire`] also sees every write that the
    /// thread made before.
    pub(crate) fn store_release(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Reads the value, synchronizing with [`Self::store_release`].
    pub(crate) fn load_acquire(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// One `T` per thread.
#[derive(Debug)]
pub(crate) struct PerThread<T: Send>(ThreadLocal<Box<CacheAligned<T>>>);

/// Keeps a value on separate cache lines, so that writes by one thread do not invalidate the cache of
/// another (false sharing).
#[derive(Debug, Default)]
#[repr(align(128))]
struct CacheAligned<T>(T);

impl<T: Send> Default for PerThread<T> {
    fn default() -> Self {
        Self(ThreadLocal::new())
    }
}

impl<T: Default + Send + Sync> PerThread<T> {
    /// Returns the value of the current thread.
    pub(crate) fn local(&self) -> &T {
        &self.0.get_or_default().0
    }

    /// Iterates over the values of all threads.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|slot| &slot.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_add_up_and_outlive_their_threads() {
        let counters = PerThread::<SingleWriterCounter>::default();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..1_000).for_each(|_| counters.local().add(1)));
                }
            });
        }
        assert_eq!(counters.iter().map(SingleWriterCounter::get).sum::<u64>(), 12_000);
        assert!(counters.iter().count() <= 12, "slots of ended threads are reused");
    }
}
