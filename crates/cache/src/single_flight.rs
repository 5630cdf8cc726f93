//! One piece of work per key, however many wait for its result.
//!
//! Whoever comes first has the duty to do it, the others wait. The result is told once and not
//! kept. A duty that is dropped without a word (a panic, a caller that gave up) leaves nobody
//! waiting: they are told that there is no result.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

type Landing<T> = watch::Receiver<Option<T>>;

/// The work that is being done, by key.
#[derive(Debug)]
pub struct Flights<K, T> {
    by_key: Mutex<HashMap<K, Landing<T>>>,
}

/// What to do about a key.
pub enum Boarding<K: Eq + Hash + Clone, T> {
    /// Nobody does it: do it, and tell the others.
    Lead(Pilot<K, T>),
    /// Somebody does: wait.
    Wait(Passenger<T>),
}

/// The duty to do the work.
pub struct Pilot<K: Eq + Hash + Clone, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    tell: watch::Sender<Option<T>>,
}

/// Waits for another one's result.
pub struct Passenger<T> {
    landing: Landing<T>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { by_key: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, T> Flights<K, T> {
    /// Takes the duty for a key, or a place among those who wait.
    pub fn board(self: &Arc<Self>, key: K) -> Boarding<K, T> {
        let mut by_key = self.by_key.lock();
        if let Some(landing) = by_key.get(&key) {
            return Boarding::Wait(Passenger { landing: landing.clone() });
        }
        let (tell, landing) = watch::channel(None);
        by_key.insert(key.clone(), landing);
        Boarding::Lead(Pilot { flights: Arc::clone(self), key, tell })
    }

    /// How many keys are being worked on.
    pub fn len(&self) -> usize {
        self.by_key.lock().len()
    }

    /// Whether nothing is being done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash + Clone, T> Pilot<K, T> {
    /// Tells everybody who waits.
    pub fn land(self, result: T) {
        // Off the board first, so that nobody joins a flight that has landed.
        self.flights.by_key.lock().remove(&self.key);
        self.tell.send_replace(Some(result));
    }
}

impl<K: Eq + Hash + Clone, T> Drop for Pilot<K, T> {
    fn drop(&mut self) {
        // After `land` the key may already belong to the next flight.
        if self.tell.borrow().is_none() {
            self.flights.by_key.lock().remove(&self.key);
        }
    }
}

impl<T: Clone> Passenger<T> {
    /// The result; none if whoever had the duty gave it up.
    pub async fn landed(mut self) -> Option<T> {
        self.landing.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_works_and_the_others_are_told() {
        let flights: Arc<Flights<&str, i32>> = Arc::default();
        let Boarding::Lead(pilot) = flights.board("a") else { panic!("nobody else is there") };
        let Boarding::Wait(first) = flights.board("a") else { panic!("somebody works on it") };
        let Boarding::Wait(second) = flights.board("a") else { panic!("somebody works on it") };
        assert!(matches!(flights.board("b"), Boarding::Lead(_)), "another key is another matter");
        pilot.land(7);
        assert_eq!((first.landed().await, second.landed().await), (Some(7), Some(7)));
        assert!(matches!(flights.board("a"), Boarding::Lead(_)), "the result is not kept");
    }

    #[tokio::test]
    async fn a_duty_that_is_given_up_leaves_nobody_waiting() {
        let flights: Arc<Flights<&str, i32>> = Arc::default();
        let Boarding::Lead(pilot) = flights.board("a") else { panic!("nobody else is there") };
        let Boarding::Wait(waiting) = flights.board("a") else { panic!("somebody works on it") };
        drop(pilot);
        assert_eq!(waiting.landed().await, None);
        assert!(flights.is_empty());
    }
}
