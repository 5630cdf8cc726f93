//! One fetch per key, however many wait for it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Entry;

/// What those who waited are told.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// This answer is good for all whose key it is.
    Answer(Arc<Entry>),
    /// The answer was for one only: each has to ask for itself.
    Alone,
}

type Landing = watch::Receiver<Option<Outcome>>;

/// The fetches on their way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    by_key: Mutex<HashMap<u64, Landing>>,
}

pub(crate) enum Boarding {
    /// Nobody fetches this key: do it, and tell the others.
    Lead(Pilot),
    /// Somebody does: wait.
    Wait(Passenger),
}

/// The duty to fetch. Dropped without a word (a panic), the others fetch for themselves.
pub(crate) struct Pilot {
    flights: Arc<Flights>,
    key: u64,
    tell: watch::Sender<Option<Outcome>>,
}

pub(crate) struct Passenger {
    landing: Landing,
}

impl Flights {
    pub(crate) fn board(self: &Arc<Self>, key: u64) -> Boarding {
        let mut by_key = self.by_key.lock();
        if let Some(landing) = by_key.get(&key) {
            return Boarding::Wait(Passenger { landing: landing.clone() });
        }
        let (tell, landing) = watch::channel(None);
        by_key.insert(key, landing);
        Boarding::Lead(Pilot { flights: Arc::clone(self), key, tell })
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.lock().len()
    }
}

impl Pilot {
    pub(crate) fn land(self, outcome: Outcome) {
        // Off the board first, so that nobody joins a flight that has landed.
        self.flights.by_key.lock().remove(&self.key);
        self.tell.send_replace(Some(outcome));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        // After `land` the key may already belong to the next flight.
        if self.tell.borrow().is_none() {
            self.flights.by_key.lock().remove(&self.key);
        }
    }
}

impl Passenger {
    pub(crate) async fn landed(mut self) -> Outcome {
        match self.landing.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Outcome::Alone),
            Err(_) => Outcome::Alone,
        }
    }
}
