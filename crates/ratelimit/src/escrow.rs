//! A bucket that several replicas draw on: the decision that the shared state makes. Pure.
//!
//! A replica does not take a token for each request. It is granted a few, and spends them by itself; a
//! token that was granted and not spent still occupies the bucket. What follows, whatever the timing and
//! the number of replicas:
//!
//! * `level + beyond >= held`: what replicas hold is part of what is used. So in every window of length `w` at
//!   most `B + R * w` requests are admitted, as from a bucket of one process.
//! * A report says what is, not what changed: it may be lost, or arrive and its answer be lost, and the
//!   next one puts it right.
//! * A replica that falls silent keeps its tokens until its lease ends, and from then on counts as having
//!   spent them.
//! * What no longer fits after an edit is remembered beside the bucket: a smaller one is empty then, fills at
//!   its rate, and a larger one that follows has it again. It begins to fill when all is due that was reserved
//!   ahead: replicas hear of an edit at different moments, and bring the old limit and the new one in turns.
//!
//! The price is that tokens of a quiet replica are not there for a busy one, until they are given back.
//!
//! `escrow.lua` is this file for Redis; a test holds one against the other.

use std::collections::BTreeMap;

use crate::gcra::Limit;

/// For how long a replica may hold tokens without a report, in microseconds.
pub const LEASE_US: u64 = 3_000_000;
/// How far ahead tokens are reserved at most, in microseconds.
pub const AHEAD_US: u64 = 100_000;
/// What others hold may be given back after so long, in microseconds.
const GIVEN_BACK_US: u64 = 1_000_000;
/// Room for rounding, far below one token.
const EPSILON: f64 = 1e-6;

/// The state of one bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Escrow {
    level: f64,
    at_us: u64,
    /// Used or held, and more than fits into the capacity.
    beyond: f64,
    /// The limit under which tokens were asked for last; 0: none were.
    rate: f64,
    capacity: f64,
    /// How often tokens that are held were set beside the bucket by an edit.
    edits: u64,
    /// Until then it drains for tokens that were reserved ahead before an edit, which are beside the bucket.
    promised_until_us: u64,
    leases: BTreeMap<u64, Lease>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Lease {
    held: f64,
    used: u64,
    number: u64,
    until_us: u64,
    /// After how many edits what is held was granted.
    edits: u64,
}

/// What a replica says of a bucket, and what it asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Who says it. Nobody else ever does, and the same replica under another name after its lease ended.
    pub holder: u64,
    /// Counts its reports up. One that arrives after a later one is of no account.
    pub number: u64,
    /// Tokens that it has spent under this name.
    pub used: u64,
    /// As many of them as the shared state is known to have heard of.
    pub heard: u64,
    /// Tokens that it holds and has not spent.
    pub held: u32,
    /// Tokens for requests that wait now.
    pub needed: u32,
    /// Tokens that it would like to have, those for waiting requests included.
    pub wanted: u32,
    /// Tokens that it would like to reserve if there are none: those that come next.
    pub ahead: u32,
    /// How far ahead that may reach, in microseconds.
    pub ahead_us: u64,
}

impl Report {
    /// Whether it asks for tokens. One that does comes of a request, and so with the limit in force; another
    /// one may come of a replica that has not looked at its limit for long.
    fn asks(&self) -> bool {
        self.wanted > 0 || self.ahead > 0
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grant {
    /// Tokens granted.
    pub tokens: u32,
    /// The first of them may be spent after so many microseconds, and the others one after another at the
    /// bucket's rate. 0: all of them at once.
    pub first_in_us: u64,
    /// If none was granted: after so many microseconds a token is there, if nobody else takes it.
    pub retry_in_us: u64,
    /// And so soon it may be, if others give some back; to ask before is of no use.
    pub again_in_us: u64,
    /// Whole tokens that are left to all replicas.
    pub left: u32,
}

/// A grant as Redis tells it, its fields in their order.
pub type Told = (u32, u64, u64, u64, u32);

impl From<Told> for Grant {
    fn from((tokens, first_in_us, retry_in_us, again_in_us, left): Told) -> Self {
        Self { tokens, first_in_us, retry_in_us, again_in_us, left }
    }
}

impl Grant {
    /// Tokens that go to requests that wait, of which there are `needed`: they are spent at once, and count
    /// as spent on both sides.
    pub fn served(&self, needed: u32) -> u32 {
        if self.first_in_us == 0 { self.tokens.min(needed) } else { 0 }
    }
}

impl Escrow {
    /// Takes a report at `now_us`, and grants.
    ///
    /// What was used before an edit drains at the faster of both rates, so that a raise acts at once and a cut
    /// does not make a large bucket drain for hours; what is used after it, at the new one.
    ///
    /// A clock that steps back, as after a failover to a server whose clock is behind, goes on from where it
    /// is: what has drained has drained, and nothing waits until that clock has caught up.
    pub fn report(&mut self, limit: &Limit, report: &Report, now_us: u64) -> Grant {
        let known = self.leases.get(&report.holder).filter(|lease| lease.until_us > now_us).copied();
        let is_late = known.is_some_and(|lease| lease.number >= report.number);
        // A bucket that nobody has asked has no limit yet.
        let (capacity, rate) = if (report.asks() && !is_late) || self.rate <= 0.0 {
            (limit.capacity(), limit.refill_per_second())
        } else {
            (self.capacity, self.rate)
        };
        let before = self.rate;
        let drain = rate.max(before);
        self.rate = rate;
        self.at_us = self.at_us.min(now_us);
        self.promised_until_us = self.promised_until_us.min(now_us + AHEAD_US);
        for lease in self.leases.values_mut() {
            lease.until_us = lease.until_us.min(now_us + LEASE_US);
        }
        let ended =
            |(holder, lease): (&u64, &Lease)| (lease.until_us <= now_us).then_some((lease.until_us, *holder));
        let mut ended: Vec<(u64, u64)> = self.leases.iter().filter_map(ended).collect();
        ended.sort_unstable();
        for (until_us, holder) in ended {
            self.drain(drain, until_us);
            self.leases.remove(&holder);
        }
        self.drain(drain, now_us);

        if is_late {
            return Grant::default();
        }
        self.fit(capacity, before, now_us);
        let seen = known.map_or(report.heard, |lease| lease.used);
        let accounted = known.map_or(0.0, |lease| lease.held);
        let spent = report.used.saturating_sub(seen) as f64;
        let held = f64::from(report.held);
        // Less than was held: given back, or granted in an answer that was lost. More: spent while the
        // shared state was gone, or held since before it forgot. A debt ends at one bucket.
        let mut difference = spent + held - accounted;
        let edits = known.map_or(self.edits, |lease| lease.edits);
        if edits < self.edits && difference < 0.0 {
            // It was granted before an edit, and may be beside the bucket since.
            let back = self.beyond.min(-difference);
            self.beyond -= back;
            difference += back;
        }
        let highest = self.level.max(2.0 * capacity);
        self.level = (self.level + difference).clamp(0.0, highest);
        let edits = if held > 0.0 { edits } else { self.edits };

        let room = capacity - self.level + EPSILON;
        // Reserved ahead is only what is there when its time comes even if nobody spends before: all that
        // is held fits into the bucket.
        let others = self.held() - accounted;
        let promised_us = self.promised_until_us.saturating_sub(now_us);
        let reach_us = report.ahead_us.saturating_sub(promised_us);
        let ahead = (rate * reach_us as f64 / 1e6).min(capacity - others - held - room.min(0.0));
        let drained_in_us =
            if room >= 1.0 { 0 } else { time_us(1.0 - room, rate).saturating_add(promised_us) };
        let (tokens, first_in_us) = if room >= 1.0 {
            (share(room, report.wanted, report.needed), 0)
        } else if room + ahead >= 1.0 {
            (share(room + ahead, report.ahead, 0), drained_in_us)
        } else {
            (0, 0)
        };
        // One that would like none is not told of a time to come for it.
        let first_in_us = if tokens > 0 { first_in_us } else { 0 };
        self.level += f64::from(tokens);
        let grant = Grant { tokens, first_in_us, ..Grant::default() };
        let served = grant.served(report.needed);
        let held = held + f64::from(tokens - served);
        let (used, number) = (report.used + u64::from(served), report.number);
        let edits = if tokens > 0 { self.edits } else { edits };
        let lease = Lease { held, used, number, until_us: now_us + LEASE_US, edits };
        if held > 0.0 || used > report.heard {
            self.leases.insert(report.holder, lease);
        } else {
            self.leases.remove(&report.holder);
        }
        let left = (room - f64::from(tokens)).max(0.0) as u32;
        if tokens > 0 {
            return Grant { left, ..grant };
        }
        // What is held does not drain. Where others hold all, one of their leases has to end first.
        let all_is_held = if capacity - others < 1.0 { LEASE_US } else { 0 };
        let again_in_us = if others >= 1.0 { drained_in_us.min(GIVEN_BACK_US) } else { drained_in_us };
        Grant { retry_in_us: drained_in_us.saturating_add(all_is_held), again_in_us, left, ..grant }
    }

    /// What is held is used, and does not drain.
    fn drain(&mut self, rate: f64, to_us: u64) {
        let in_time = |until_us: u64| rate * (until_us.saturating_sub(self.at_us) as f64 / 1e6);
        let (drained, promised) = (in_time(to_us), in_time(self.promised_until_us.min(to_us)));
        let all_held = self.held();
        self.level = self.level.max(all_held - self.beyond);
        let mut used = (self.level + self.beyond - all_held).min(drained);
        let of_what_was_promised = used.min(promised).min(self.beyond);
        self.beyond -= of_what_was_promised;
        used -= of_what_was_promised;
        let of_the_level = used.min((self.level - self.newly_held()).max(0.0));
        self.level -= of_the_level;
        self.beyond = (self.beyond - (used - of_the_level)).max(0.0);
        self.at_us = self.at_us.max(to_us);
    }

    /// Divides what is used and held anew between the bucket and what is remembered beside it, if the limit is
    /// another one than `before`. What was reserved ahead goes beside it.
    fn fit(&mut self, capacity: f64, before: f64, now_us: u64) {
        let is_other_capacity = self.capacity.to_bits() != capacity.to_bits();
        if self.capacity > 0.0 && (is_other_capacity || self.rate.to_bits() != before.to_bits()) {
            let ahead = (self.level - self.capacity).min(self.newly_held()).max(0.0);
            if ahead > 0.0 {
                let promised_us = self.promised_until_us.max(now_us).saturating_add(time_us(ahead, before));
                self.promised_until_us = promised_us.min(now_us + AHEAD_US);
            }
            let total = self.level + self.beyond;
            let level = if is_other_capacity { capacity.min(total - ahead) } else { self.level - ahead };
            (self.level, self.beyond) = (level, total - level);
            self.edits += u64::from(is_other_capacity || ahead > 0.0);
        }
        self.capacity = capacity;
    }

    /// Tokens that are held in the bucket, not beside it.
    fn newly_held(&self) -> f64 {
        self.leases.values().filter(|lease| lease.edits == self.edits).map(|lease| lease.held).sum()
    }

    /// Tokens that replicas hold.
    pub fn held(&self) -> f64 {
        self.leases.values().map(|lease| lease.held).sum()
    }

    /// Tokens that are used or held.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// As many more as do not fit since an edit.
    pub fn beyond(&self) -> f64 {
        self.beyond
    }
}

/// Half of what there is, so that others find some too; but whoever waits now is served.
fn share(room: f64, wanted: u32, needed: u32) -> u32 {
    let room = room as u32;
    wanted.min(needed.max(room.div_ceil(2))).min(room)
}

/// The time in which `tokens` come, rounded up.
fn time_us(tokens: f64, rate: f64) -> u64 {
    (tokens.max(0.0) / rate * 1e6).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// The first report of a replica that needs and holds nothing.
    fn from(holder: u64) -> Report {
        Report { holder, number: 1, used: 0, heard: 0, held: 0, needed: 0, wanted: 0, ahead: 0, ahead_us: 0 }
    }

    #[test]
    fn a_replica_gets_half_of_what_there_is_and_whoever_waits_is_served() {
        let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
        assert_eq!(bucket.report(&limit, &Report { wanted: 100, ..from(1) }, SECOND).tokens, 5);
        let grant = bucket.report(&limit, &Report { wanted: 4, needed: 4, ..from(2) }, SECOND);
        assert_eq!((grant.tokens, grant.left), (4, 1));
        assert_eq!(bucket.held().to_bits(), 5.0_f64.to_bits(), "what goes to those who wait is spent");
    }

    #[test]
    fn after_a_clock_stepped_back_a_bucket_drains_and_leases_end_as_usual() {
        const HOUR: u64 = 3_600 * SECOND;
        let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
        // One replica holds five and falls silent, another one has spent the others.
        bucket.report(&limit, &Report { wanted: 5, ..from(1) }, HOUR);
        bucket.report(&limit, &Report { wanted: 5, needed: 5, ..from(2) }, HOUR);
        let mut asks = |number, at| {
            let report = Report { number, wanted: 1, needed: 1, ..from(3) };
            bucket.report(&limit, &report, at).tokens
        };
        assert_eq!(asks(1, SECOND), 0, "what was used is still used");
        assert_eq!(asks(2, 2 * SECOND), 1, "a second later one has drained");
        assert_eq!(asks(3, 2 * SECOND), 0);
        assert!(bucket.held() > 4.0);
        bucket.report(&limit, &Report { number: 4, ..from(3) }, SECOND + LEASE_US);
        assert!(bucket.held() < 0.5, "nobody holds any more");
    }

    #[test]
    fn what_is_reserved_ahead_fits_beside_what_others_hold() {
        let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 10.0));
        for (holder, granted) in [(1, 5), (2, 3), (3, 1), (4, 1)] {
            let report = Report { wanted: 10, ..from(holder) };
            assert_eq!(bucket.report(&limit, &report, SECOND).tokens, granted);
        }
        // All ten are held. If they are spent later than the reserved ones are due, all come at once.
        let ahead = Report { ahead: 5, ahead_us: SECOND, ..from(5) };
        let grant = bucket.report(&limit, &ahead, SECOND);
        assert_eq!((grant.tokens, grant.again_in_us), (0, 100_000));
        // Once they are spent there is room for what drains.
        for (holder, held) in [(1, 5), (2, 3), (3, 1), (4, 1)] {
            bucket.report(&limit, &Report { number: 2, used: held, ..from(holder) }, SECOND);
        }
        let grant = bucket.report(&limit, &Report { number: 2, ..ahead }, SECOND);
        assert_eq!((grant.tokens, grant.first_in_us), (5, 100_000));
    }

    #[test]
    fn what_is_given_back_after_an_edit_of_the_rate_alone_goes_back_to_where_it_came_from() {
        let mut bucket = Escrow::default();
        bucket.report(&Limit::new(100, 10.0), &Report { wanted: 60, needed: 60, ..from(1) }, SECOND);
        // After the cut 20 are in the bucket and 40 beside it; a second later there is room for ten.
        let cut = Limit::new(20, 10.0);
        assert_eq!(
            bucket.report(&cut, &Report { number: 2, used: 60, wanted: 1, ..from(1) }, SECOND).tokens,
            0
        );
        assert_eq!(bucket.report(&cut, &Report { wanted: 4, ..from(2) }, 2 * SECOND).tokens, 4);
        let slower = Limit::new(20, 5.0);
        let tokens = bucket.report(&slower, &Report { wanted: 100, ..from(3) }, 2 * SECOND).tokens;
        assert_eq!(tokens, 3, "half of the six that are left");
        bucket.report(&slower, &Report { number: 2, ..from(2) }, 2 * SECOND);
        let left = bucket.report(&slower, &Report { wanted: 100, ..from(4) }, 2 * SECOND).left;
        assert_eq!(left, 3, "of seven, four are granted");
    }

    #[test]
    fn a_refusal_says_when_a_token_is_there_although_nobody_gives_any_back() {
        for (held, capacity) in [(4, 10), (10, 10)] {
            let (mut bucket, limit) = (Escrow::default(), Limit::new(capacity, 0.5));
            // One replica holds some and falls silent, the others have spent the rest.
            bucket.report(&limit, &Report { wanted: held, needed: 0, ..from(1) }, SECOND);
            let rest = capacity as u32 - bucket.held() as u32;
            bucket.report(&limit, &Report { wanted: rest, needed: rest, ..from(2) }, SECOND);
            let refused = bucket.report(&limit, &Report { wanted: 1, needed: 1, ..from(3) }, SECOND);
            assert_eq!(refused.tokens, 0);
            assert!(refused.again_in_us <= refused.retry_in_us);
            let then = SECOND + refused.retry_in_us;
            let again = bucket.report(&limit, &Report { number: 2, wanted: 1, needed: 1, ..from(3) }, then);
            assert_eq!(again.tokens, 1, "after {} us", refused.retry_in_us);
        }
    }

    #[test]
    fn after_a_cut_nothing_drains_at_the_rate_before_it() {
        let (mut bucket, fast, slow) = (Escrow::default(), Limit::new(100, 1_000.0), Limit::new(10, 0.001));
        let asks = |holder, number| Report { number, wanted: 9, needed: 9, ..from(holder) };
        bucket.report(&fast, &asks(1, 1), SECOND);
        bucket.report(&fast, &Report { wanted: 5, ..from(2) }, SECOND);
        assert_eq!(
            bucket.report(&slow, &asks(1, 2), 2 * SECOND).tokens,
            5,
            "what was used before has drained"
        );
        // One that has had no request since the edit gives back what it held.
        bucket.report(&fast, &Report { number: 2, ..from(2) }, 3 * SECOND);
        assert_eq!(
            bucket.report(&slow, &asks(3, 1), 4 * SECOND).tokens,
            5,
            "and what was given back is there"
        );
        assert_eq!(bucket.report(&slow, &asks(1, 3), 5 * SECOND).tokens, 0, "and that is all");
    }

    /// It was refused for as long as the small bucket would have taken to let the large one drain.
    #[test]
    fn after_a_cut_whoever_used_more_gets_the_new_rate_at_once_and_a_raise_gives_nothing_back() {
        let (mut bucket, large, small) = (Escrow::default(), Limit::new(1_000, 100.0), Limit::new(10, 1.0));
        // Three replicas: what the first needs is spent, the others hold what they got.
        bucket.report(&large, &Report { wanted: 500, needed: 500, ..from(1) }, SECOND);
        bucket.report(&large, &Report { wanted: 250, ..from(2) }, SECOND);
        bucket.report(&large, &Report { wanted: 250, needed: 250, ..from(3) }, SECOND);
        assert_eq!(bucket.held().to_bits(), 250.0_f64.to_bits());
        let asks = |holder, number| Report { number, wanted: 999, needed: 999, ..from(holder) };
        let refused = bucket.report(&small, &asks(1, 2), SECOND);
        assert_eq!(
            (refused.tokens, refused.retry_in_us.div_ceil(1000), bucket.level() as u32),
            (0, 4_000, 10)
        );
        // The second one has spent 100 of what it held, and drops the rest.
        let refused = bucket.report(&small, &Report { used: 100, ..asks(2, 2) }, SECOND);
        assert_eq!(
            (refused.tokens, refused.retry_in_us.div_ceil(1000), bucket.beyond() as u32),
            (0, 1_000, 840)
        );
        for second in 2..=5 {
            let granted = bucket.report(&small, &asks(2 + second % 2, second + 1), second * SECOND).tokens;
            assert_eq!(granted, 1, "at {second}");
        }
        assert_eq!(
            bucket.report(&large, &asks(1, 9), 5 * SECOND).tokens,
            150,
            "what was not used of a thousand"
        );
        assert_eq!(bucket.report(&small, &asks(1, 10), 5 * SECOND).tokens, 0);
    }

    /// Replicas hear of an edit at different moments. Each turn from one limit to the other reserved the same
    /// time ahead again: in a world of nine replicas a bucket of 600 admitted 3,200.
    #[test]
    fn between_two_limits_in_turns_no_time_is_reserved_twice() {
        let limits = [Limit::new(100, 1_000.0), Limit::new(20, 500.0), Limit::new(100, 500.0)];
        for turn in [[0, 1], [1, 0], [0, 2], [2, 0], [0, 0]] {
            let mut bucket = Escrow::default();
            let used = Report { wanted: 100, needed: 100, ..from(1) };
            bucket.report(&limits[0], &used, SECOND);
            let mut reserved = 0;
            for holder in 2..100 {
                let limit = limits[turn[holder as usize % 2]];
                let asks = Report { ahead: 40, ahead_us: AHEAD_US, ..from(holder) };
                let grant = bucket.report(&limit, &asks, SECOND);
                let due_us = |token: u32| f64::from(token) / limit.refill_per_second() * 1e6;
                assert!(grant.tokens == 0 || grant.first_in_us as f64 >= due_us(1), "{grant:?}");
                if grant.tokens > 0 {
                    let last_us = grant.first_in_us as f64 + due_us(grant.tokens - 1);
                    assert!(last_us <= AHEAD_US as f64 + 1.0, "{grant:?}");
                }
                reserved += grant.tokens;
            }
            // What comes in a tenth of a second, at the faster of both rates.
            assert!((10..=100).contains(&reserved), "{reserved} between {turn:?}");
        }
    }

    /// What was reserved ahead took as long to drain at the new rate.
    #[test]
    fn after_a_cut_of_the_rate_alone_nobody_waits_for_what_was_reserved_ahead() {
        let (mut bucket, fast, slow) = (Escrow::default(), Limit::new(100, 1_000.0), Limit::new(100, 1.0));
        bucket.report(&fast, &Report { wanted: 100, needed: 100, ..from(1) }, SECOND);
        let ahead = Report { ahead: 40, ahead_us: AHEAD_US, ..from(2) };
        assert_eq!(bucket.report(&fast, &ahead, SECOND).tokens, 40);
        let asks = Report { wanted: 1, needed: 1, ..from(3) };
        let refused = bucket.report(&slow, &asks, SECOND);
        assert_eq!(
            (refused.tokens, refused.retry_in_us.div_ceil(1000)),
            (0, 1_040),
            "it begins when all is due"
        );
        // One that has heard drops them: they are not there for others.
        bucket.report(&slow, &Report { number: 2, wanted: 1, ..from(2) }, SECOND);
        let then = SECOND + refused.retry_in_us;
        assert_eq!(bucket.report(&slow, &Report { number: 2, ..asks }, 2 * SECOND - 2_000).tokens, 0);
        assert_eq!(bucket.report(&slow, &Report { number: 3, ..asks }, then).tokens, 1);
        assert_eq!(bucket.report(&slow, &Report { number: 4, ..asks }, then).tokens, 0);
    }

    #[test]
    fn a_report_that_comes_late_is_of_no_account() {
        let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 0.001));
        let late = from(1);
        bucket.report(&limit, &Report { number: 2, wanted: 4, ..from(1) }, SECOND);
        assert_eq!(bucket.report(&limit, &late, SECOND), Grant::default());
        assert_eq!(bucket.held().to_bits(), 4.0_f64.to_bits());
    }

    #[test]
    fn tokens_of_an_answer_that_nobody_heard_come_back() {
        let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 0.001));
        bucket.report(&limit, &Report { wanted: 4, ..from(1) }, SECOND);
        let grant = bucket.report(&limit, &Report { number: 2, wanted: 4, ..from(1) }, SECOND);
        assert_eq!((grant.tokens, grant.left), (4, 6));
    }

    #[test]
    fn tokens_of_a_silent_replica_count_as_spent_when_its_lease_ends() {
        let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
        bucket.report(&limit, &Report { wanted: 8, needed: 0, ..from(1) }, SECOND);
        let before = bucket.report(&limit, &Report { wanted: 1, ..from(2) }, SECOND + LEASE_US - 1);
        assert_eq!(before.left, 4, "five are held, whatever the time, and one more was taken");
        bucket.report(&limit, &Report { number: 2, ..from(2) }, SECOND + LEASE_US);
        let after = bucket.report(&limit, &Report { number: 3, ..from(2) }, 3 * SECOND + LEASE_US);
        assert_eq!(after.left, 7, "and then they drain as all others do");
    }

    #[test]
    fn what_was_spent_without_the_shared_state_is_a_debt_of_one_bucket_at_most() {
        let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
        let grant = bucket.report(&limit, &Report { used: 500, wanted: 1, ..from(1) }, SECOND);
        assert_eq!((grant.tokens, grant.retry_in_us.div_ceil(1000)), (0, 11_000));
        assert_eq!(bucket.level().to_bits(), 20.0_f64.to_bits());
    }
}
