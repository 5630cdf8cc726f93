//! One replica's lease on a shared bucket, and the decisions that it allows without a call. Pure, with an
//! explicit clock.
//!
//! ```text
//!   State::Spendable  leased tokens are due         -> admit, no call (a report requests more at a quarter)
//!   State::Exhausted  no token before a known time  -> refuse, no call
//!   State::Unknown    neither                       -> report to the shared state
//! ```
//!
//! A lease publishes its current state as a [`CreditWord`], by which requests are decided without the lease.
//!
//! The shared state is [`crate::escrow::Escrow`]. A lease that is not renewed expires here before it expires
//! there. The shared state then counts its leased tokens as spent, and this replica does not spend them.

mod credit;
mod demand;
mod local_fallback;
mod reporting;

use std::time::Duration;

pub use credit::{Credit, CreditDecision, CreditWord};
pub use reporting::Served;

use crate::gcra::{Decision, Limit};
use demand::Demand;
use local_fallback::LocalFallback;
use reporting::InFlight;

/// Time without requests after which a lease without further use is dropped, in nanoseconds.
const OBSOLETE_NS: u64 = 10_000_000_000;
/// Minimum size of a grant for which more tokens are requested before all of them are spent.
const MIN_GRANT_FOR_EARLY_REPORT: u32 = 4;

/// One replica's lease on one key.
#[derive(Clone, Debug)]
pub struct Lease {
    limit: Limit,
    holder: u64,
    /// Tokens that may be spent from `due_ns` on.
    leased: u32,
    /// Value of `leased` after the last grant: the tokens that count as spent when the lease expires.
    granted: u32,
    /// Time from which the next token may be spent, in nanoseconds.
    due_ns: u64,
    /// Time between tokens that were reserved ahead, in nanoseconds; 0 if all are due together.
    interval_ns: u64,
    /// Time at which the lease expires, in nanoseconds; 0 without a grant.
    expires_ns: u64,
    /// Time before which the shared state has no token for anyone, in nanoseconds.
    recheck_at_ns: u64,
    /// Time at which a token is available if no other replica takes it, in nanoseconds.
    retry_at_ns: u64,
    /// Tokens that remained available to all replicas after the last grant.
    remaining: u32,
    /// Tokens spent under this holder.
    spent: u64,
    /// Part of `spent` that the shared state has recorded.
    acknowledged: u64,
    demand: Demand,
    /// Sequence number of the last report.
    sequence: u64,
    in_flight: Option<InFlight>,
    /// Local share; preserved across outages, so that a second outage does not grant it again.
    fallback: LocalFallback,
}

/// State of a lease at one time.
///
/// Derived from the fields, not stored: a lease may hold tokens and at the same time know that the shared
/// state has no more, and both facts expire on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A token may be spent now.
    Spendable,
    /// No token may be spent before `until_ns`; a refused client may retry at `retry_at_ns`.
    Exhausted { until_ns: u64, retry_at_ns: u64 },
    /// Only the shared state can decide.
    Unknown,
}

/// The decision of a lease on one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LeaseDecision {
    /// The lease decides.
    Decided(Decision),
    /// The lease cannot decide; a report to the shared state is needed.
    Unknown,
}

impl Lease {
    /// Creates a lease without tokens. `holder` is an identity that no lease had before.
    pub fn new(limit: Limit, holder: u64) -> Self {
        Self {
            limit,
            holder,
            leased: 0,
            granted: 0,
            due_ns: 0,
            interval_ns: 0,
            expires_ns: 0,
            recheck_at_ns: 0,
            retry_at_ns: 0,
            remaining: 0,
            spent: 0,
            acknowledged: 0,
            demand: Demand::default(),
            sequence: 0,
            in_flight: None,
            fallback: LocalFallback::default(),
        }
    }

    /// Decides on a request under `limit` at `now_ns`.
    ///
    /// If the lease has expired, it continues under the identity that `new_holder` returns.
    pub fn decide(&mut self, limit: &Limit, now_ns: u64, new_holder: impl FnOnce() -> u64) -> LeaseDecision {
        self.demand.count(1, now_ns);
        self.apply_limit(limit);
        self.expire(now_ns, new_holder);
        self.decide_waiting(now_ns)
    }

    /// Decides on a request that has waited for a grant and is already counted in the demand.
    pub fn decide_waiting(&mut self, now_ns: u64) -> LeaseDecision {
        match self.state(now_ns) {
            State::Spendable => {
                self.leased -= 1;
                self.spent += 1;
                self.due_ns += self.interval_ns;
                LeaseDecision::Decided(self.admit())
            }
            State::Exhausted { retry_at_ns, .. } => {
                let retry_after = Some(Duration::from_nanos(retry_at_ns.saturating_sub(now_ns)));
                LeaseDecision::Decided(Decision::Refuse { retry_after })
            }
            State::Unknown => LeaseDecision::Unknown,
        }
    }

    /// Decides by this replica's share while the shared state is unavailable. Admitted requests count as
    /// spent and are reported later.
    pub fn decide_by_local_fallback(&mut self, share: &Limit, now_ns: u64) -> Decision {
        let decision = self.fallback.decide(share, now_ns);
        self.spent += u64::from(decision.is_admitted());
        decision
    }

    /// Returns true if dropping the lease loses nothing but tokens, which return by themselves.
    pub fn is_evictable(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Returns true if the lease has no further use: it is idle, no token is leased, every spent token is
    /// acknowledged, and the share of the local fallback is full again.
    pub fn is_obsolete(&self, now_ns: u64) -> bool {
        self.in_flight.is_none()
            && self.leased == 0
            && self.spent == self.acknowledged
            && self.fallback.is_full(now_ns)
            && now_ns.saturating_sub(self.demand.last_request_ns) > OBSOLETE_NS
    }

    /// Time of the last request, in nanoseconds.
    pub fn last_request_ns(&self) -> u64 {
        self.demand.last_request_ns
    }

    /// Records that the published credit last decided on a request at `now_ns`.
    pub fn record_request(&mut self, now_ns: u64) {
        self.demand.record_request(now_ns);
    }

    /// Returns the state at `now_ns`.
    fn state(&self, now_ns: u64) -> State {
        let (until_ns, retry_at_ns) = if self.leased > 0 && self.expires_ns > now_ns {
            if self.due_ns <= now_ns {
                return State::Spendable;
            }
            (self.due_ns, self.due_ns)
        } else {
            (self.recheck_at_ns, self.retry_at_ns)
        };
        if until_ns > now_ns { State::Exhausted { until_ns, retry_at_ns } } else { State::Unknown }
    }

    /// Drops the state that belongs to a former limit.
    fn apply_limit(&mut self, limit: &Limit) {
        if *limit != self.limit {
            self.limit = *limit;
            self.leased = 0;
            self.recheck_at_ns = 0;
        }
    }

    /// Continues under a new holder if the lease has expired.
    fn expire(&mut self, now_ns: u64, new_holder: impl FnOnce() -> u64) {
        if self.expires_ns > 0 && self.expires_ns <= now_ns && self.in_flight.is_none() {
            // The shared state counts all granted tokens of the old holder as spent. Only tokens that the
            // local fallback spent beyond them remain to be reported.
            let unacknowledged = self.spent - self.acknowledged;
            self.spent = unacknowledged.saturating_sub(u64::from(self.granted));
            (self.acknowledged, self.leased, self.granted, self.expires_ns) = (0, 0, 0, 0);
            self.holder = new_holder();
        }
    }

    fn admit(&self) -> Decision {
        Decision::admit(&self.limit, u64::from(self.leased) + u64::from(self.remaining))
    }
}

#[cfg(test)]
mod tests;
