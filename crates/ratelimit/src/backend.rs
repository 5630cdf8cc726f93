//! Where buckets live.

use std::{future::Future, pin::Pin};

use crate::gcra::{Decision, Limit};

/// A place that holds buckets and decides about them.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Takes one token from the bucket `key` under `limit`.
    fn decide(&self, key: u64, limit: &Limit) -> Verdict;
}

/// A decision, or the promise of one by a backend that has to ask elsewhere.
pub enum Verdict {
    /// Decided on the spot.
    Now(Decision),
    /// To be decided within the backend's own time limit.
    Later(Pin<Box<dyn Future<Output = Decision> + Send>>),
}
