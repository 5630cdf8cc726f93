//! A bucket that several replicas draw on, as the shared state decides it. Pure, with an explicit clock.
//!
//! A replica does not fetch a token for every request. It leases several tokens and spends them locally. A
//! leased token occupies the bucket until it is spent or returned. Whatever the timing and the number of
//! replicas:
//!
//! * `used + overflow >= leased`: leased tokens are part of the used ones. Hence in every window of length
//!   `w` at most `B + R * w` requests are admitted, as with a bucket in a single process.
//! * A report states totals, not changes. If the report or its grant is lost, the next report corrects the
//!   state.
//! * Tokens of a silent replica stay leased until its lease expires, and count as spent from then on.
//! * Used tokens that do not fit into the capacity after an edit move to the *overflow*: the smaller bucket
//!   is then empty and refills at its own rate, and a later, larger limit counts the overflow as used again.
//! * An edit also moves tokens that were reserved ahead to the overflow, and the bucket refills only after
//!   all of them are due. Replicas learn of an edit at different times and report under the old and the new
//!   limit in turns; otherwise each turn would reserve the same time again.
//!
//! The price: tokens leased by a quiet replica are unavailable to a busy one until they are returned.
//!
//! `escrow.lua` implements the same for Redis; a test compares both report by report.

mod message;

use std::collections::BTreeMap;

pub use message::{Grant, GrantReply, Report};

use crate::gcra::Limit;

/// Duration of a lease without a report, in microseconds.
pub const LEASE_DURATION_US: u64 = 3_000_000;
/// Maximum time for which tokens are reserved ahead, in microseconds.
pub const MAX_RESERVE_AHEAD_US: u64 = 100_000;
/// Time after which a quiet replica may have returned its tokens, in microseconds.
const RETURN_AFTER_US: u64 = 1_000_000;
/// Tolerance for rounding errors, far below one token.
const EPSILON: f64 = 1e-6;

/// State of one shared bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Escrow {
    /// Used or leased tokens in the bucket.
    used: f64,
    /// Time of the last update, in microseconds.
    updated_us: u64,
    /// Used or leased tokens that do not fit into the capacity since an edit.
    overflow: f64,
    /// Rate of the last report that requested tokens, per second; 0 before the first report.
    rate: f64,
    /// Capacity of the last report that requested tokens.
    capacity: f64,
    /// Number of edits that could move leased tokens to the overflow.
    edits: u64,
    /// Time in microseconds at which the last token that was reserved ahead before an edit is due. Until then
    /// the overflow drains first, because it contains those tokens.
    reserved_until_us: u64,
    leases: BTreeMap<u64, LeaseRecord>,
}

/// The lease of one holder.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LeaseRecord {
    /// Tokens leased and not spent.
    leased: f64,
    /// Tokens spent by this holder in total.
    spent: u64,
    /// Sequence number of the last report.
    sequence: u64,
    expires_us: u64,
    /// Value of [`Escrow::edits`] when the tokens were leased.
    edits: u64,
}

impl Escrow {
    /// Takes a report at `now_us` and grants tokens.
    ///
    /// Tokens used before an edit drain at the faster of both rates, so that a raise takes effect at once and
    /// a large bucket does not take hours to drain after a cut. Tokens used after the edit drain at the new
    /// rate.
    ///
    /// If the clock steps back, as after a failover to a server whose clock is behind, draining continues
    /// from the earlier time: drained tokens stay drained, and nothing waits for the clock to catch up.
    pub fn report(&mut self, limit: &Limit, report: &Report, now_us: u64) -> Grant {
        let lease = self.leases.get(&report.holder).filter(|lease| lease.expires_us > now_us).copied();
        let is_late = lease.is_some_and(|lease| lease.sequence >= report.sequence);
        // A new bucket has no limit yet and takes that of any report.
        let (capacity, rate) = if (report.requests_tokens() && !is_late) || self.rate <= 0.0 {
            (limit.capacity(), limit.refill_per_second())
        } else {
            (self.capacity, self.rate)
        };
        let previous_rate = self.rate;
        let drain_rate = rate.max(previous_rate);
        self.rate = rate;
        self.follow_clock(now_us);
        self.expire_leases(drain_rate, now_us);
        self.drain(drain_rate, now_us);
        if is_late {
            return Grant::default();
        }
        self.fit_limit(capacity, previous_rate, now_us);
        let edits = self.account_for(report, lease);
        self.grant(report, lease, edits, now_us)
    }

    /// Lowers all stored times that are too late for a clock that stepped back.
    fn follow_clock(&mut self, now_us: u64) {
        self.updated_us = self.updated_us.min(now_us);
        self.reserved_until_us = self.reserved_until_us.min(now_us + MAX_RESERVE_AHEAD_US);
        for lease in self.leases.values_mut() {
            lease.expires_us = lease.expires_us.min(now_us + LEASE_DURATION_US);
        }
    }

    /// Removes expired leases. Their tokens count as spent and drain from the time of expiry.
    fn expire_leases(&mut self, rate: f64, now_us: u64) {
        let is_expired = |(_, lease): &(&u64, &LeaseRecord)| lease.expires_us <= now_us;
        let expired = self.leases.iter().filter(is_expired);
        let mut expired: Vec<(u64, u64)> =
            expired.map(|(holder, lease)| (lease.expires_us, *holder)).collect();
        expired.sort_unstable();
        for (expires_us, holder) in expired {
            self.drain(rate, expires_us);
            self.leases.remove(&holder);
        }
    }

    /// Drains used tokens up to `to_us`. Leased tokens do not drain.
    fn drain(&mut self, rate: f64, to_us: u64) {
        let drained_by = |until_us: u64| rate * (until_us.saturating_sub(self.updated_us) as f64 / 1e6);
        let (drained, reserved) = (drained_by(to_us), drained_by(self.reserved_until_us.min(to_us)));
        let leased = self.leased();
        self.used = self.used.max(leased - self.overflow);
        let mut drained = (self.used + self.overflow - leased).min(drained);
        // First the tokens that were reserved ahead before an edit, while they become due.
        let from_reserved = drained.min(reserved).min(self.overflow);
        self.overflow -= from_reserved;
        drained -= from_reserved;
        let from_used = drained.min((self.used - self.leased_in_bucket()).max(0.0));
        self.used -= from_used;
        self.overflow = (self.overflow - (drained - from_used)).max(0.0);
        self.updated_us = self.updated_us.max(to_us);
    }

    /// Divides used and leased tokens between bucket and overflow anew if the limit was edited. Tokens
    /// reserved ahead move to the overflow.
    fn fit_limit(&mut self, capacity: f64, previous_rate: f64, now_us: u64) {
        let capacity_changed = self.capacity.to_bits() != capacity.to_bits();
        if self.capacity > 0.0 && (capacity_changed || self.rate.to_bits() != previous_rate.to_bits()) {
            let reserved = (self.used - self.capacity).min(self.leased_in_bucket()).max(0.0);
            if reserved > 0.0 {
                let from_us = self.reserved_until_us.max(now_us);
                let until_us = from_us.saturating_add(refill_time_us(reserved, previous_rate));
                self.reserved_until_us = until_us.min(now_us + MAX_RESERVE_AHEAD_US);
            }
            let total = self.used + self.overflow;
            let used = if capacity_changed { capacity.min(total - reserved) } else { self.used - reserved };
            (self.used, self.overflow) = (used, total - used);
            self.edits += u64::from(capacity_changed || reserved > 0.0);
        }
        self.capacity = capacity;
    }

    /// Accounts for the tokens that the holder has spent or returned since its last report. Returns the edit
    /// count of the tokens that it still leases.
    fn account_for(&mut self, report: &Report, lease: Option<LeaseRecord>) -> u64 {
        let recorded = lease.map_or(report.acknowledged, |lease| lease.spent);
        let leased_before = lease.map_or(0.0, |lease| lease.leased);
        let spent = report.spent.saturating_sub(recorded) as f64;
        let leased = f64::from(report.leased);
        // Negative: tokens were returned, or their grant was lost. Positive: tokens were spent by the local
        // fallback, or leased before the shared state lost its memory.
        let mut difference = spent + leased - leased_before;
        let edits = lease.map_or(self.edits, |lease| lease.edits);
        if edits < self.edits && difference < 0.0 {
            // Tokens leased before an edit may have moved to the overflow, so they return from there first.
            let returned = self.overflow.min(-difference);
            self.overflow -= returned;
            difference += returned;
        }
        // A debt is limited to one bucket beyond a full one.
        let most = self.used.max(2.0 * self.capacity);
        self.used = (self.used + difference).clamp(0.0, most);
        if leased > 0.0 { edits } else { self.edits }
    }

    /// Grants tokens and renews the holder's lease.
    fn grant(&mut self, report: &Report, lease: Option<LeaseRecord>, edits: u64, now_us: u64) -> Grant {
        let (capacity, rate) = (self.capacity, self.rate);
        let leased = f64::from(report.leased);
        let leased_by_others = self.leased() - lease.map_or(0.0, |lease| lease.leased);
        let room = capacity - self.used + EPSILON;
        // A reserved token must be available when it is due even if no leased token is spent before: all
        // leased tokens together fit into the bucket.
        let reserved_us = self.reserved_until_us.saturating_sub(now_us);
        let reserve_us = report.reserve_within_us.saturating_sub(reserved_us);
        let refill =
            (rate * reserve_us as f64 / 1e6).min(capacity - leased_by_others - leased - room.min(0.0));
        let next_token_in_us =
            if room >= 1.0 { 0 } else { refill_time_us(1.0 - room, rate).saturating_add(reserved_us) };
        let (tokens, due_in_us) = if room >= 1.0 {
            (share(room, report.wanted, report.needed), 0)
        } else if room + refill >= 1.0 {
            (share(room + refill, report.reserve, 0), next_token_in_us)
        } else {
            (0, 0)
        };
        let due_in_us = if tokens > 0 { due_in_us } else { 0 };
        self.used += f64::from(tokens);
        let grant = Grant { tokens, due_in_us, ..Grant::default() };
        let served = grant.served(report.needed);
        let renewed = LeaseRecord {
            leased: leased + f64::from(tokens - served),
            spent: report.spent + u64::from(served),
            sequence: report.sequence,
            expires_us: now_us + LEASE_DURATION_US,
            edits: if tokens > 0 { self.edits } else { edits },
        };
        if renewed.leased > 0.0 || renewed.spent > report.acknowledged {
            self.leases.insert(report.holder, renewed);
        } else {
            self.leases.remove(&report.holder);
        }
        let remaining = (room - f64::from(tokens)).max(0.0) as u32;
        if tokens > 0 {
            return Grant { remaining, ..grant };
        }
        // Leased tokens do not drain. If others lease all of them, one of their leases has to expire first.
        let expiry_us = if capacity - leased_by_others < 1.0 { LEASE_DURATION_US } else { 0 };
        let recheck_in_us =
            if leased_by_others >= 1.0 { next_token_in_us.min(RETURN_AFTER_US) } else { next_token_in_us };
        Grant { retry_in_us: next_token_in_us.saturating_add(expiry_us), recheck_in_us, remaining, ..grant }
    }

    /// Leased tokens that are in the bucket and not in the overflow.
    fn leased_in_bucket(&self) -> f64 {
        self.leases.values().filter(|lease| lease.edits == self.edits).map(|lease| lease.leased).sum()
    }

    /// Tokens that replicas have leased and not spent.
    pub fn leased(&self) -> f64 {
        self.leases.values().map(|lease| lease.leased).sum()
    }

    /// Used or leased tokens in the bucket.
    pub fn used(&self) -> f64 {
        self.used
    }

    /// Used or leased tokens that do not fit into the capacity since an edit.
    pub fn overflow(&self) -> f64 {
        self.overflow
    }
}

/// Returns the number of tokens to grant out of `room`: at most half, so that other replicas find some too,
/// but at least `needed` for requests that are waiting.
fn share(room: f64, wanted: u32, needed: u32) -> u32 {
    let room = room as u32;
    wanted.min(needed.max(room.div_ceil(2))).min(room)
}

/// Time in which `tokens` tokens refill, in microseconds, rounded up.
fn refill_time_us(tokens: f64, rate: f64) -> u64 {
    (tokens.max(0.0) / rate * 1e6).ceil() as u64
}

#[cfg(test)]
mod tests;
