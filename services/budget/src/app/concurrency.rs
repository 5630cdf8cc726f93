//! Limit on concurrent calls, first come, first served.
//!
//! The limit may change at any time: a raise admits waiting calls at once; after a cut, no call is
//! admitted until enough permits have been returned. The queue is bounded, and every wait has a
//! time limit. A permit is returned when it is dropped.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Maximum number of waiting calls.
const MAX_WAITING: usize = 64;

/// Limit on concurrent calls. Clones share it.
#[derive(Clone)]
pub struct ConcurrencyLimit {
    state: Arc<Mutex<State>>,
}

struct State {
    limit: usize,
    running: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// Permission for one call, returned to its limit when dropped.
pub struct Permit {
    /// `None` after the permit has been returned.
    state: Option<Arc<Mutex<State>>>,
}

/// Number of calls under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Calls that hold a permit.
    pub running: usize,
    /// Calls that wait for a permit.
    pub waiting: usize,
}

/// Failure to acquire a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The queue is full.
    #[error("{MAX_WAITING} calls are already waiting")]
    QueueFull,
    /// No permit was returned in time.
    #[error("no call ended within the time limit of the queue")]
    TimedOut,
}

impl ConcurrencyLimit {
    /// Creates a limit of at least one call.
    pub fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), running: 0, waiting: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes the limit, to at least one call.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.state.lock();
        state.limit = limit.max(1);
        self.admit_waiting(&mut state);
    }

    /// Returns the number of running and waiting calls.
    pub fn load(&self) -> Load {
        let state = self.state.lock();
        let waiting = state.waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        Load { running: state.running, waiting }
    }

    /// Acquires a permit, after the calls that wait already.
    ///
    /// # Errors
    ///
    /// The queue is full, or no permit is returned within `time_limit`.
    pub async fn acquire(&self, time_limit: Duration) -> Result<Permit, AcquireError> {
        let admitted = {
            let mut state = self.state.lock();
            state.waiting.retain(|waiting| !waiting.is_closed());
            if state.running < state.limit && state.waiting.is_empty() {
                state.running += 1;
                return Ok(self.permit());
            }
            if state.waiting.len() >= MAX_WAITING {
                return Err(AcquireError::QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            receiver
        };
        match tokio::time::timeout(time_limit, admitted).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(AcquireError::TimedOut),
        }
    }

    fn permit(&self) -> Permit {
        Permit { state: Some(Arc::clone(&self.state)) }
    }

    fn admit_waiting(&self, state: &mut State) {
        while state.running < state.limit {
            let Some(next) = state.waiting.pop_front() else { return };
            state.running += 1;
            if let Err(mut permit) = next.send(self.permit()) {
                // The caller has given up. Dropping its permit would lock the state again.
                permit.state = None;
                state.running -= 1;
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            let limit = ConcurrencyLimit { state };
            let mut state = limit.state.lock();
            state.running -= 1;
            limit.admit_waiting(&mut state);
        }
    }
}

#[cfg(test)]
mod tests;
