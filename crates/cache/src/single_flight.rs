//! Deduplicates concurrent work: one caller per key does it, the others wait for its result.
//!
//! The result goes to the callers that wait and is not stored. If the leader is dropped without a result,
//! because it panicked or its caller gave up, every follower is woken with none.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

type ResultReceiver<T> = watch::Receiver<Option<T>>;

/// Work in progress, by key.
#[derive(Debug)]
pub struct SingleFlight<K, T> {
    by_key: Mutex<HashMap<K, ResultReceiver<T>>>,
}

/// Part that a caller takes in the work for a key.
pub enum Role<K: Eq + Hash + Clone, T> {
    /// No other caller works on the key: this one does the work and completes it.
    Leader(Leader<K, T>),
    /// Another caller works on the key: this one waits for the result.
    Follower(Follower<T>),
}

/// Obligation to do the work for a key.
pub struct Leader<K: Eq + Hash + Clone, T> {
    group: Arc<SingleFlight<K, T>>,
    key: K,
    result: watch::Sender<Option<T>>,
}

/// Wait for the result of a leader.
pub struct Follower<T> {
    result: ResultReceiver<T>,
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self { by_key: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, T> SingleFlight<K, T> {
    /// Joins the work for a key: as its leader if no caller works on it yet, otherwise as a follower.
    pub fn join(self: &Arc<Self>, key: K) -> Role<K, T> {
        let mut by_key = self.by_key.lock();
        if let Some(result) = by_key.get(&key) {
            return Role::Follower(Follower { result: result.clone() });
        }
        let (sender, receiver) = watch::channel(None);
        by_key.insert(key.clone(), receiver);
        Role::Leader(Leader { group: Arc::clone(self), key, result: sender })
    }

    /// Number of keys with work in progress.
    pub fn len(&self) -> usize {
        self.by_key.lock().len()
    }

    /// Returns true if no work is in progress.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash + Clone, T> Leader<K, T> {
    /// Ends the work and gives its result to every follower.
    pub fn complete(self, result: T) {
        // The key is removed first, so that no caller follows work that is already complete.
        self.group.by_key.lock().remove(&self.key);
        self.result.send_replace(Some(result));
    }
}

impl<K: Eq + Hash + Clone, T> Drop for Leader<K, T> {
    fn drop(&mut self) {
        // After `complete` the key may already belong to the next leader.
        if self.result.borrow().is_none() {
            self.group.by_key.lock().remove(&self.key);
        }
    }
}

impl<T: Clone> Follower<T> {
    /// Waits for the result; `None` if the leader was dropped without one.
    pub async fn wait(mut self) -> Option<T> {
        self.result.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_leader_works_and_every_follower_gets_its_result() {
        let group: Arc<SingleFlight<&str, i32>> = Arc::default();
        let Role::Leader(leader) = group.join("a") else { panic!("no work is in progress") };
        let Role::Follower(first) = group.join("a") else { panic!("the key has a leader") };
        let Role::Follower(second) = group.join("a") else { panic!("the key has a leader") };
        assert!(matches!(group.join("b"), Role::Leader(_)), "keys are independent");
        leader.complete(7);
        assert_eq!((first.wait().await, second.wait().await), (Some(7), Some(7)));
        assert!(matches!(group.join("a"), Role::Leader(_)), "the result is not stored");
    }

    #[tokio::test]
    async fn a_dropped_leader_wakes_its_followers_without_a_result() {
        let group: Arc<SingleFlight<&str, i32>> = Arc::default();
        let Role::Leader(leader) = group.join("a") else { panic!("no work is in progress") };
        let Role::Follower(follower) = group.join("a") else { panic!("the key has a leader") };
        drop(leader);
        assert_eq!(follower.wait().await, None);
        assert!(group.is_empty());
    }
}
