//! What one replica holds of a shared bucket, and what it decides by itself. Pure, with an explicit clock.
//!
//! ```text
//!   tokens held       -> admit, no call               (new tokens are asked for at a quarter)
//!   reserved ahead    -> refuse until the first is due, no call
//!   told when to come -> refuse until then, no call
//!   else              -> ask the shared state
//! ```
//!
//! What it holds, or that there is nothing, it lends as a [`Purse`], by which requests are decided without it.
//!
//! The shared state is [`crate::escrow::Escrow`]. A lease that was not renewed ends here before it ends
//! there: what this replica still held then counts as spent, and is not spent again.

mod purse;

use std::time::Duration;

pub(crate) use purse::admitted;
pub use purse::{Loan, Purse, Said};

use crate::{
    escrow::{AHEAD_US, Grant, LEASE_US, Report},
    gcra::{Bucket, Decision, Limit},
};

/// A lease ends here so much earlier than there.
const MARGIN_NS: u64 = 500_000_000;
/// What nobody has spent for so long is given back.
const IDLE_NS: u64 = 1_000_000_000;
/// For a key that nobody has asked about for so long nothing more is asked for.
const PAUSE_NS: u64 = 100_000_000;
/// A key without tokens is asked about again after so long, whatever the shared state said.
const TOLD_NS: u64 = 10_000_000_000;
/// What nobody has asked for so long is forgotten.
const OVER_NS: u64 = 10_000_000_000;
/// A bucket with fewer tokens than this for each replica is shared token by token.
const SMALL: f64 = 4.0;

/// One key in one replica.
#[derive(Clone, Debug)]
pub struct Lease {
    limit: Limit,
    holder: u64,
    /// Tokens that may be spent, the first of them from `due_ns` on.
    held: u32,
    granted: u32,
    due_ns: u64,
    /// Time between reserved tokens; 0: all are due together.
    gap_ns: u64,
    ends_ns: u64,
    /// Until then there are no tokens for anybody.
    none_until_ns: u64,
    /// And at the latest then there is one, if nobody else takes it.
    told_until_ns: u64,
    /// Tokens that were left to all replicas when the shared state was asked last.
    left: u32,
    used: u64,
    heard: u64,
    /// Requests per second, and when that was counted.
    demand: f64,
    seen_ns: u64,
    reports: u64,
    asking: Option<Asking>,
    /// The share of this replica while the shared state is gone, and when nothing of it is used any more. It
    /// outlives the outage: another one that follows does not give it again.
    alone: Bucket,
    alone_until_ns: u64,
    is_alone: bool,
    /// The largest that it was in this outage.
    alone_of: f64,
}

/// A report is on its way.
#[derive(Clone, Copy, Debug)]
struct Asking {
    left_ns: u64,
    /// The count of used tokens that it tells.
    used: u64,
    needed: u32,
    wanted: u32,
    limit: Limit,
    /// It only tells what is held and used.
    only_tells: bool,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Decided.
    Decided(Decision),
    /// Nobody here knows: ask.
    Ask,
}

impl Lease {
    /// Nothing is held yet. `holder` is a name that nobody had before.
    pub fn new(limit: Limit, holder: u64) -> Self {
        Self {
            limit,
            holder,
            held: 0,
            granted: 0,
            due_ns: 0,
            gap_ns: 0,
            ends_ns: 0,
            none_until_ns: 0,
            told_until_ns: 0,
            left: 0,
            used: 0,
            heard: 0,
            demand: 0.0,
            seen_ns: 0,
            reports: 0,
            asking: None,
            alone: Bucket::default(),
            alone_until_ns: 0,
            is_alone: false,
            alone_of: 0.0,
        }
    }

    /// Decides about a request under `limit` at `now_ns`, if that is possible here.
    ///
    /// `rename` gives a new name when the lease has ended.
    pub fn decide(&mut self, limit: &Limit, now_ns: u64, rename: impl FnOnce() -> u64) -> Step {
        self.count(1, now_ns);
        self.keep_up(limit, now_ns, rename);
        self.again(now_ns)
    }

    /// Decides about a request that was counted already: one that has waited for a grant.
    pub fn again(&mut self, now_ns: u64) -> Step {
        let holds = self.held > 0 && self.ends_ns > now_ns;
        if holds && self.due_ns <= now_ns {
            self.held -= 1;
            self.used += 1;
            self.due_ns += self.gap_ns;
            return Step::Decided(self.admitted());
        }
        let (known_until, told_until) =
            if holds { (self.due_ns, self.due_ns) } else { (self.none_until_ns, self.told_until_ns) };
        if known_until > now_ns {
            let retry_after = Some(Duration::from_nanos(told_until.saturating_sub(now_ns)));
            return Step::Decided(Decision::Refuse { retry_after });
        }
        Step::Ask
    }

    /// Decides by this replica's share, while the shared state is gone. What is admitted is told later.
    ///
    /// The share begins half used or more, and so does what an edit adds to it: what was admitted just before
    /// is not known here.
    pub fn decide_alone(&mut self, share: &Limit, now_ns: u64) -> Decision {
        if !self.is_alone {
            self.is_alone = true;
            self.alone_of = share.capacity();
            self.alone.at_least((share.capacity() / 2.0).ceil(), share, now_ns);
        } else if share.capacity() > self.alone_of {
            let added = share.capacity() - self.alone_of;
            self.alone_of = share.capacity();
            self.alone.more((added / 2.0).ceil(), share, now_ns);
        }
        let decision = self.alone.decide(share, 1, now_ns);
        self.alone_until_ns = now_ns.saturating_add(self.alone.forgotten_in(share).as_nanos() as u64);
        self.used += u64::from(decision.is_admitted());
        decision
    }

    /// Whether a report would be useful although nobody waits: more tokens are needed soon, or some have
    /// not been spent for long, or some were used that nobody has heard of.
    pub fn wants_to_report(&self, now_ns: u64) -> bool {
        if self.asking.is_some() {
            return false;
        }
        let is_quiet = now_ns.saturating_sub(self.seen_ns) > IDLE_NS;
        let runs_low = self.granted >= 4 && self.held <= self.granted / 4;
        let ends_soon = self.ends_ns.saturating_sub(now_ns) < IDLE_NS;
        if is_quiet {
            self.held > 0 || self.used > self.heard
        } else {
            self.held > 0 && (runs_low || ends_soon)
        }
    }

    /// Whether the shared state is to hear of what was used without it.
    pub fn has_to_tell(&self) -> bool {
        self.asking.is_none() && self.used > self.heard
    }

    /// Says what is held and used, and asks for nothing: this replica goes on by its share. None: a report is
    /// on its way already.
    pub fn tell(&mut self, now_ns: u64) -> Option<Report> {
        self.send([0; 3], now_ns, true)
    }

    /// Says what is held, and asks for more if `needed` requests wait or more will come. None: a report is
    /// on its way already.
    pub fn report(&mut self, needed: u32, replicas: u32, now_ns: u64) -> Option<Report> {
        if self.asking.is_some() {
            return None;
        }
        let replicas = f64::from(replicas.max(1));
        let capacity = self.limit.capacity();
        let quiet_ns = if needed == 0 { now_ns.saturating_sub(self.seen_ns) } else { 0 };
        if quiet_ns > IDLE_NS {
            self.held = 0;
        }
        // Where no request has brought the limit in force along, nothing is asked for under it.
        let (wanted, ahead) = if quiet_ns > PAUSE_NS {
            (0, 0)
        } else if capacity < SMALL * replicas {
            (needed, 0)
        } else {
            let most = (capacity / (2.0 * replicas)).max(1.0);
            // As many as will be asked for until the last of them is due.
            let ahead = (self.demand * AHEAD_US as f64 / 1e6).ceil() as u32;
            ((self.demand.min(most) as u32).max(needed), ahead)
        };
        self.send([needed, wanted, ahead], now_ns, false)
    }

    fn send(&mut self, [needed, wanted, ahead]: [u32; 3], now_ns: u64, only_tells: bool) -> Option<Report> {
        if self.asking.is_some() {
            return None;
        }
        self.asking =
            Some(Asking { left_ns: now_ns, used: self.used, needed, wanted, limit: self.limit, only_tells });
        self.reports += 1;
        Some(Report {
            holder: self.holder,
            number: self.reports,
            used: self.used,
            heard: self.heard,
            held: self.held,
            needed,
            wanted,
            ahead,
            ahead_us: AHEAD_US,
        })
    }

    /// Takes an answer. Tells to how many of the requests that waited it goes: these are spent, and there is
    /// one decision for all of them.
    pub fn granted(&mut self, grant: &Grant, now_ns: u64) -> (u32, Decision) {
        let served = self.take(grant, now_ns);
        (served, self.admitted())
    }

    fn take(&mut self, grant: &Grant, now_ns: u64) -> u32 {
        let Some(asked) = self.asking.take() else { return 0 };
        // Nobody grants more than was asked for, unless its state or its answer is broken.
        let grant = Grant { tokens: grant.tokens.min(asked.wanted), ..*grant };
        let served = grant.served(asked.needed);
        self.used += u64::from(served);
        self.heard = asked.used + u64::from(served);
        if asked.limit != self.limit {
            // The next report does not know of the others, which gives them back.
            return served;
        }
        self.left = grant.left;
        self.ends_ns = asked.left_ns + LEASE_US * 1000 - MARGIN_NS;
        // What is held now, and no more, counts there as held.
        self.granted = self.held;
        if asked.only_tells {
            return 0;
        }
        self.is_alone = false;
        if grant.tokens == 0 {
            // A large bucket at a low rate takes longer than a clock can say.
            let then =
                |in_us: u64| if in_us > 0 { now_ns.saturating_add(in_us.saturating_mul(1000)) } else { 0 };
            self.none_until_ns = then(grant.again_in_us).min(now_ns.saturating_add(TOLD_NS));
            self.told_until_ns = then(grant.retry_in_us);
            return 0;
        }
        self.none_until_ns = 0;
        self.held += grant.tokens - served;
        self.granted = self.held;
        // What may be spent at once may be spent by a request that looked at the clock before the answer came.
        (self.due_ns, self.gap_ns) = if grant.first_in_us > 0 {
            let due_ns = now_ns.saturating_add(grant.first_in_us.saturating_mul(1000));
            (due_ns, (1e9 / self.limit.refill_per_second()) as u64)
        } else {
            (0, 0)
        };
        served
    }

    /// No answer came. The same is told again, later.
    pub fn failed(&mut self) {
        self.asking = None;
    }

    /// Whether nothing would be lost without this lease but tokens, which come back by themselves.
    pub fn may_be_forgotten(&self) -> bool {
        self.asking.is_none()
    }

    /// Whether it is of no use any more: nobody asks, nothing is held, everything is told, and of its share
    /// nothing is used.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.asking.is_none()
            && self.held == 0
            && self.used == self.heard
            && self.alone_until_ns <= now_ns
            && now_ns.saturating_sub(self.seen_ns) > OVER_NS
    }

    /// When it was asked last.
    pub fn seen_ns(&self) -> u64 {
        self.seen_ns
    }

    /// Counts requests that came since the last one was counted, evenly.
    fn count(&mut self, requests: u32, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.seen_ns) as f64 / 1e9;
        // Of what was counted before, each request leaves so much, and adds itself.
        if requests == 1 {
            self.demand = self.demand * (1.0 - elapsed).max(0.0) + 1.0;
        } else if requests > 1 {
            let gone = (elapsed / f64::from(requests)).min(1.0);
            let left = (1.0 - gone).powf(f64::from(requests));
            let added = if gone > 0.0 { (1.0 - left) / gone } else { f64::from(requests) };
            self.demand = self.demand * left + added;
        }
        self.was_seen(now_ns);
    }

    /// Drops what belongs to another limit or to a lease that has ended.
    fn keep_up(&mut self, limit: &Limit, now_ns: u64, rename: impl FnOnce() -> u64) {
        if *limit != self.limit {
            self.limit = *limit;
            self.held = 0;
            self.none_until_ns = 0;
        }
        if self.ends_ns > 0 && self.ends_ns <= now_ns && self.asking.is_none() {
            // What was held counts there as spent; what was spent before is part of that. Only what was
            // spent beyond it, alone, is still to be told.
            let beyond = self.used - self.heard;
            let covered = u64::from(self.granted);
            self.used = beyond.saturating_sub(covered);
            (self.heard, self.held, self.granted, self.ends_ns) = (0, 0, 0, 0);
            self.holder = rename();
        }
    }

    fn admitted(&self) -> Decision {
        admitted(&self.limit, u64::from(self.held) + u64::from(self.left))
    }
}

#[cfg(test)]
mod tests;
