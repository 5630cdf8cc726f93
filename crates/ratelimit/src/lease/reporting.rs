//! The reports of a lease to the shared state, and the grants that answer them.
//!
//! At most one report is in flight. Reports state totals, so a report without a grant is simply repeated.

use super::{Lease, MIN_GRANT_FOR_EARLY_REPORT};
use crate::{
    escrow::{Grant, LEASE_DURATION_US, MAX_RESERVE_AHEAD_US, Report},
    gcra::{Decision, Limit},
};

/// Time by which a lease expires earlier here than in the shared state, in nanoseconds.
pub(super) const EXPIRY_MARGIN_NS: u64 = 500_000_000;
/// Time without requests after which leased tokens are returned, in nanoseconds.
pub(super) const IDLE_NS: u64 = 1_000_000_000;
/// Time without requests after which a report requests no more tokens, in nanoseconds.
pub(super) const PAUSE_NS: u64 = 100_000_000;
/// Maximum time for which a key without tokens is not reported, even if the grant states a longer time, in
/// nanoseconds.
const MAX_RECHECK_NS: u64 = 10_000_000_000;
/// Minimum tokens per replica in a bucket that is leased. Smaller buckets are shared token by token.
const MIN_TOKENS_PER_REPLICA: f64 = 4.0;

/// A report whose grant has not arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    sent_ns: u64,
    /// Value of [`Lease::spent`] that the report states.
    spent: u64,
    /// Requested tokens; `None` if the report only accounts for spent tokens.
    pub(super) request: Option<TokenRequest>,
    limit: Limit,
}

/// Tokens that a report requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenRequest {
    /// Tokens for requests that are waiting.
    needed: u32,
    /// Tokens to lease, including `needed`.
    pub(super) wanted: u32,
    /// Tokens to reserve ahead if none is available.
    reserve: u32,
}

/// The requests that a grant serves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// Number of waiting requests whose token is spent.
    pub requests: u32,
    /// The decision for each of them.
    pub decision: Decision,
}

impl Lease {
    /// Returns true if a report is useful although no request waits: tokens run low, the lease is about to
    /// expire, leased tokens are idle, or spent tokens are unacknowledged.
    pub fn should_report(&self, now_ns: u64) -> bool {
        if self.in_flight.is_some() {
            return false;
        }
        let is_idle = now_ns.saturating_sub(self.demand.last_request_ns) > IDLE_NS;
        let runs_low = self.granted >= MIN_GRANT_FOR_EARLY_REPORT && self.leased <= self.granted / 4;
        let expires_soon = self.expires_ns.saturating_sub(now_ns) < IDLE_NS;
        if is_idle {
            self.leased > 0 || self.spent > self.acknowledged
        } else {
            self.leased > 0 && (runs_low || expires_soon)
        }
    }

    /// Returns true if spent tokens are unacknowledged and no report of them is in flight.
    pub fn should_report_spent(&self) -> bool {
        self.in_flight.is_none() && self.spent > self.acknowledged
    }

    /// Reports leased and spent tokens and requests none, while the local fallback decides. Returns `None` if
    /// a report is in flight.
    pub fn report_spent(&mut self, now_ns: u64) -> Option<Report> {
        self.send(None, now_ns)
    }

    /// Reports leased and spent tokens and requests more, for `needed` waiting requests and for those
    /// expected to follow. Returns `None` if a report is in flight.
    pub fn report(&mut self, needed: u32, replicas: u32, now_ns: u64) -> Option<Report> {
        if self.in_flight.is_some() {
            return None;
        }
        let replicas = f64::from(replicas.max(1));
        let capacity = self.limit.capacity();
        let idle_ns = if needed == 0 { now_ns.saturating_sub(self.demand.last_request_ns) } else { 0 };
        if idle_ns > IDLE_NS {
            self.leased = 0;
        }
        let request = if idle_ns > PAUSE_NS {
            // No recent request has brought the limit in force, so no tokens are requested under this one.
            TokenRequest::default()
        } else if capacity < MIN_TOKENS_PER_REPLICA * replicas {
            TokenRequest { needed, wanted: needed, reserve: 0 }
        } else {
            let most = (capacity / (2.0 * replicas)).max(1.0);
            TokenRequest {
                needed,
                wanted: (self.demand.per_second.min(most) as u32).max(needed),
                // The demand until the last reserved token is due.
                reserve: (self.demand.per_second * MAX_RESERVE_AHEAD_US as f64 / 1e6).ceil() as u32,
            }
        };
        self.send(Some(request), now_ns)
    }

    fn send(&mut self, request: Option<TokenRequest>, now_ns: u64) -> Option<Report> {
        if self.in_flight.is_some() {
            return None;
        }
        self.in_flight = Some(InFlight { sent_ns: now_ns, spent: self.spent, request, limit: self.limit });
        self.sequence += 1;
        let TokenRequest { needed, wanted, reserve } = request.unwrap_or_default();
        Some(Report {
            holder: self.holder,
            sequence: self.sequence,
            spent: self.spent,
            acknowledged: self.acknowledged,
            leased: self.leased,
            needed,
            wanted,
            reserve,
            reserve_within_us: MAX_RESERVE_AHEAD_US,
        })
    }

    /// Applies the grant of the report in flight, and spends the tokens of the waiting requests that it
    /// serves.
    pub fn apply_grant(&mut self, grant: &Grant, now_ns: u64) -> Served {
        let requests = self.take_tokens(grant, now_ns);
        Served { requests, decision: self.admit() }
    }

    /// Takes the tokens of a grant. Returns the number of waiting requests that it serves.
    fn take_tokens(&mut self, grant: &Grant, now_ns: u64) -> u32 {
        let Some(in_flight) = self.in_flight.take() else { return 0 };
        let request = in_flight.request.unwrap_or_default();
        // A grant exceeds the request only if the shared state or the response is corrupt.
        let grant = Grant { tokens: grant.tokens.min(request.wanted), ..*grant };
        let served = grant.served(request.needed);
        self.spent += u64::from(served);
        self.acknowledged = in_flight.spent + u64::from(served);
        if in_flight.limit != self.limit {
            // The tokens were granted under an old limit. The next report does not state them as leased,
            // which returns them.
            return served;
        }
        self.remaining = grant.remaining;
        self.expires_ns = in_flight.sent_ns + LEASE_DURATION_US * 1000 - EXPIRY_MARGIN_NS;
        // The shared state has recorded the tokens leased now, and no others.
        self.granted = self.leased;
        if in_flight.request.is_none() {
            return 0;
        }
        self.fallback.end_outage();
        if grant.tokens == 0 {
            // Saturating: a large bucket with a low rate can take longer to refill than the clock can
            // express.
            let at = |in_us: u64| {
                if in_us > 0 { now_ns.saturating_add(in_us.saturating_mul(1000)) } else { 0 }
            };
            self.recheck_at_ns = at(grant.recheck_in_us).min(now_ns.saturating_add(MAX_RECHECK_NS));
            self.retry_at_ns = at(grant.retry_in_us);
            return 0;
        }
        self.recheck_at_ns = 0;
        self.leased += grant.tokens - served;
        self.granted = self.leased;
        (self.due_ns, self.interval_ns) = if grant.due_in_us > 0 {
            let due_ns = now_ns.saturating_add(grant.due_in_us.saturating_mul(1000));
            (due_ns, (1e9 / self.limit.refill_per_second()) as u64)
        } else {
            // Due at any time, not from `now_ns` on: a request that read the clock before the grant arrived
            // may still spend a token.
            (0, 0)
        };
        served
    }

    /// Records that no grant arrived for the report in flight. The next report states the same totals.
    pub fn report_failed(&mut self) {
        self.in_flight = None;
    }
}
