//! A shared value that can be replaced while it is in use.
//!
//! Replacing the value is one atomic pointer swap. Readers never block and always see one complete
//! value, either the old one or the new one. An old value is freed when its last reader drops it.
//! Subscribers are notified of every change; a slow subscriber skips intermediate values and sees the
//! newest one.
//!
//! Does not interpret the value.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

/// A shared value that can be replaced. Clones are handles to one value.
#[derive(Debug)]
pub struct Live<T> {
    inner: Arc<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    current: ArcSwap<T>,
    /// Number of replacements so far.
    changes: watch::Sender<u64>,
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> Live<T> {
    /// Creates a live value that starts as `value`.
    pub fn new(value: T) -> Self {
        Self {
            inner: Arc::new(Inner { current: ArcSwap::from_pointee(value), changes: watch::Sender::new(0) }),
        }
    }

    /// Borrows the current value. Cheaper than [`Live::get`], but must not be held across an `await`.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.inner.current.load()
    }

    /// Returns the current value as an `Arc` that can be kept for any length of time.
    pub fn get(&self) -> Arc<T> {
        self.inner.current.load_full()
    }

    /// Replaces the value and notifies every subscriber.
    pub fn set(&self, value: T) {
        self.inner.current.store(Arc::new(value));
        self.inner.changes.send_modify(|count| *count += 1);
    }

    /// Subscribes to changes made after this call.
    pub fn subscribe(&self) -> Changes<T> {
        Changes { seen: self.inner.changes.subscribe(), live: self.clone() }
    }
}

/// A subscription to the changes of a [`Live`] value.
#[derive(Debug)]
pub struct Changes<T> {
    live: Live<T>,
    seen: watch::Receiver<u64>,
}

impl<T> Changes<T> {
    /// Waits for a change that this subscription has not reported yet and returns the newest value.
    ///
    /// Cancel-safe: a change that was not returned is reported by the next call.
    pub async fn next(&mut self) -> Arc<T> {
        // The sender lives in `self.live`, so the channel cannot be closed.
        let _ = self.seen.changed().await;
        self.live.get()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[tokio::test]
    async fn a_subscriber_is_notified_and_sees_the_newest_value() {
        let live = Live::new(1);
        let mut changes = live.subscribe();
        live.set(2);
        live.set(3);
        assert_eq!(*changes.next().await, 3);
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), changes.next()).await;
        assert!(quiet.is_err(), "two changes seen at once are reported once");
        live.set(4);
        assert_eq!(*changes.next().await, 4);
    }

    #[test]
    fn the_old_value_is_freed_when_its_last_reader_drops_it() {
        let live = Live::new(String::from("old"));
        let reader = live.get();
        let old = Arc::downgrade(&reader);
        live.set("new".into());
        assert_eq!(*reader, "old", "a reader keeps the value that it holds");
        drop(reader);
        assert!(old.upgrade().is_none());
    }

    #[test]
    fn readers_see_complete_values_while_a_writer_swaps() {
        let live = Live::new((0_u64, 0_u64));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let pair = live.load();
                        assert_eq!(pair.0, pair.1);
                    }
                });
            }
            for i in 1..=20_000 {
                live.set((i, i));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(live.load().0, 20_000);
    }
}
