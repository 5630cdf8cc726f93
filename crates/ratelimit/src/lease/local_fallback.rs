//! Decisions by one replica's share of a bucket while the shared state is unavailable. Pure, with an explicit
//! clock.
//!
//! The share starts an outage with at least half of it used, because the tokens admitted by all replicas just
//! before the outage are unknown here. For the same reason, half of the capacity that an edit adds to the
//! share during the outage counts as used, once.

use crate::gcra::{Bucket, Decision, Limit};

/// This replica's share of a bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalFallback {
    bucket: Bucket,
    /// Time at which the share is full again, in nanoseconds.
    full_at_ns: u64,
    /// Largest capacity of the share in the current outage; `None` outside an outage.
    largest_capacity: Option<f64>,
}

impl LocalFallback {
    /// Takes a token from the share, and starts an outage if there is none.
    pub(super) fn decide(&mut self, share: &Limit, now_ns: u64) -> Decision {
        let capacity = share.capacity();
        match self.largest_capacity {
            None => {
                self.largest_capacity = Some(capacity);
                self.bucket.raise_used_to((capacity / 2.0).ceil(), share, now_ns);
            }
            Some(largest) if capacity > largest => {
                self.largest_capacity = Some(capacity);
                self.bucket.add_used(((capacity - largest) / 2.0).ceil(), share, now_ns);
            }
            Some(_) => {}
        }
        let decision = self.bucket.decide(share, 1, now_ns);
        self.full_at_ns = now_ns.saturating_add(self.bucket.drains_in(share).as_nanos() as u64);
        decision
    }

    /// Ends the outage. The used part of the share stays used.
    pub(super) fn end_outage(&mut self) {
        self.largest_capacity = None;
    }

    /// Returns true if no token of the share is used.
    pub(super) fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns <= now_ns
    }
}
