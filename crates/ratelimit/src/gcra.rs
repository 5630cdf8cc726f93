//! The decision about one bucket: the generic cell rate algorithm in its continuous-state
//! leaky-bucket form (ITU-T I.371, annex A).
//!
//! The state is what is used of the bucket and when that was true. It drains with time, and a decision can
//! bring a new limit at any time. What no longer fits into a smaller bucket is remembered beside it: the smaller
//! one is empty then, and fills at its rate, and a larger one that follows has it again. Guarantees:
//!
//! * In every window of length `w` at most `B + R * w` tokens are admitted, where `B` is the
//!   largest capacity and `R` the largest rate in force during the window, however often the
//!   limit changed in between.
//! * A larger capacity or rate acts on the next decision, and so does a smaller one: whoever used much more than
//!   the new limit gets what it gives from then on, no more, and does not wait for longer. What was used under
//!   the old limit has drained at the old rate by then.
//! * The wait that a refusal names is exact: a key that nobody else uses is admitted after it.
//!
//! Why not one arrival time per key, the form most often seen: `docs/decisions/limiter-state.md`.

use std::time::Duration;

/// Room for rounding in the sums of a bucket; far below one token, far above the error.
const EPSILON: f64 = 1e-6;

/// What a bucket holds and how it refills.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    capacity: f64,
    refill_per_second: f64,
    /// Nanoseconds in which one token comes: to multiply is cheaper than to divide.
    ns_per_token: f64,
}

impl Limit {
    /// A bucket of `capacity` tokens that refills by `refill_per_second`.
    ///
    /// Values below what a policy accepts are raised to it: one token, 0.001 per second.
    pub fn new(capacity: i64, refill_per_second: f64) -> Self {
        let refill_per_second = if refill_per_second >= 0.001 { refill_per_second } else { 0.001 };
        Self { capacity: capacity.max(1) as f64, refill_per_second, ns_per_token: 1e9 / refill_per_second }
    }

    /// Tokens in a full bucket.
    pub fn capacity(&self) -> f64 {
        self.capacity
    }

    /// Tokens that come per second.
    pub fn refill_per_second(&self) -> f64 {
        self.refill_per_second
    }

    /// Time in which an empty bucket fills.
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.capacity / self.refill_per_second)
    }

    /// Time in which so many tokens come.
    pub(crate) fn time_for(&self, tokens: f64) -> Duration {
        Duration::from_nanos((tokens * self.ns_per_token) as u64)
    }
}

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// The tokens were taken.
    Admit {
        /// Whole tokens left.
        remaining: u64,
        /// Time until the bucket is full again.
        full_in: Duration,
    },
    /// There were not enough tokens and none was taken.
    Refuse {
        /// After this time they will be there; none: the request asks for more than a full bucket
        /// holds.
        retry_after: Option<Duration>,
    },
}

impl Decision {
    /// Whether the request may go on.
    pub fn is_admitted(&self) -> bool {
        matches!(self, Self::Admit { .. })
    }
}

/// The state of one bucket, in few bytes: a table of them is as fast as it is small. The default is a full one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    used: f64,
    at_ns: u64,
    /// What was used and does not fit into the capacity, to seven digits.
    beyond: f32,
    /// Tells the capacity of the last decision from others.
    capacity: u16,
    /// About how long after the last decision nothing is used any more: the upper half of an `f32`, nanoseconds.
    forgotten_in: u16,
}

impl Bucket {
    /// Takes `cost` tokens under `limit`, if they are there at `now_ns`.
    ///
    /// `now_ns` is a monotonic clock in nanoseconds; a value older than the last one counts as the
    /// last one.
    pub fn decide(&mut self, limit: &Limit, cost: u32, now_ns: u64) -> Decision {
        self.keep_up(limit, now_ns);
        let cost = f64::from(cost);
        let wanted = self.used + cost;
        let fits = wanted <= limit.capacity + EPSILON;
        if fits {
            self.used = wanted;
        }
        self.forgotten_in = self.rounded_forgotten_in(limit);
        if fits {
            let full_in = limit.time_for(self.used);
            let remaining = (limit.capacity - wanted + EPSILON).max(0.0) as u64;
            Decision::Admit { remaining, full_in }
        } else if cost > limit.capacity {
            Decision::Refuse { retry_after: None }
        } else {
            // Rounded up, so that waiting exactly so long is enough.
            let nanos = ((wanted - limit.capacity) * limit.ns_per_token).ceil();
            Decision::Refuse { retry_after: Some(Duration::from_nanos(nanos as u64)) }
        }
    }

    /// What is there under this limit, now.
    fn keep_up(&mut self, limit: &Limit, now_ns: u64) {
        self.drain(limit, now_ns);
        self.fit(limit);
    }

    fn drain(&mut self, limit: &Limit, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.at_ns);
        if elapsed > 0 {
            let mut rate = limit.refill_per_second;
            if self.forgotten_in != self.rounded_forgotten_in(limit) {
                // Another rate. The one before follows from what was used and how long that would have taken, to
                // less than a hundredth; a new bucket has none (NaN). When in this time it was edited is not known.
                let before = self.total() / self.forgotten_in_then() * 1e9;
                rate = rate.max(before);
            }
            let left = self.used - rate * (elapsed as f64 / 1e9);
            self.used = left.max(0.0);
            if self.beyond > 0.0 {
                self.beyond = (f64::from(self.beyond) + left.min(0.0)).max(0.0) as f32;
            }
            self.at_ns = now_ns;
        }
    }

    /// Divides what is used anew between the bucket and what is remembered beside it, if the limit is another one.
    fn fit(&mut self, limit: &Limit) {
        // A mark of the capacity. Of 65,536 others one has the same: then all stays where it is, until the next edit.
        let capacity = (limit.capacity.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16;
        if self.capacity != capacity {
            let used = self.total();
            self.used = used.min(limit.capacity);
            self.beyond = (used - self.used) as f32;
            self.capacity = capacity;
        }
    }

    /// Counts at least so many tokens as used.
    pub fn at_least(&mut self, used: f64, limit: &Limit, now_ns: u64) {
        self.keep_up(limit, now_ns);
        self.used = self.used.max(used);
        self.forgotten_in = self.rounded_forgotten_in(limit);
    }

    /// Counts so many more as used; beyond the capacity nothing is.
    pub fn more(&mut self, used: f64, limit: &Limit, now_ns: u64) {
        self.keep_up(limit, now_ns);
        self.used = (self.used + used).min(limit.capacity);
        self.forgotten_in = self.rounded_forgotten_in(limit);
    }

    /// Time until nothing is used of it any more, counted from its last decision.
    pub fn forgotten_in(&self, limit: &Limit) -> Duration {
        Duration::from_nanos(self.forgotten_in_ns(limit) as u64)
    }

    fn total(&self) -> f64 {
        self.used + f64::from(self.beyond)
    }

    fn forgotten_in_ns(&self, limit: &Limit) -> f64 {
        self.total() * limit.ns_per_token
    }

    fn rounded_forgotten_in(&self, limit: &Limit) -> u16 {
        ((self.forgotten_in_ns(limit) as f32).to_bits() >> 16) as u16 + 1
    }

    /// The same as it was after the last decision, in nanoseconds.
    fn forgotten_in_then(&self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.forgotten_in) << 16))
    }

    /// When nothing is used of it any more, under the limit of its last decision, or a hundredth of that time
    /// later: a new bucket is the same then.
    pub fn forgotten_at_ns(&self) -> u64 {
        self.at_ns.saturating_add(self.forgotten_in_then() as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(bucket: &mut Bucket, limit: &Limit, asks: u32, now: u64) -> u32 {
        (0..asks).filter(|_| bucket.decide(limit, 1, now).is_admitted()).count() as u32
    }

    #[test]
    fn allows_request_within_limit() {
        let mut bucket = Bucket::default();
        let decision = bucket.decide(&Limit::new(10, 1.0), 5, SECOND);
        assert_eq!(decision, Decision::Admit { remaining: 5, full_in: Duration::from_secs(5) });
    }

    #[test]
    fn an_empty_bucket_fills_in_its_window() {
        assert_eq!(Limit::new(10, 4.0).window(), Duration::from_millis(2_500));
    }

    #[test]
    fn denies_request_exceeding_limit() {
        let mut bucket = Bucket::default();
        let limit = Limit::new(10, 1.0);
        bucket.decide(&limit, 5, SECOND);
        assert_eq!(
            bucket.decide(&limit, 10, SECOND),
            Decision::Refuse { retry_after: Some(Duration::from_secs(5)) }
        );
        assert_eq!(admitted(&mut bucket, &limit, 10, SECOND), 5, "a refusal takes nothing");
    }

    #[test]
    fn a_request_for_more_than_the_capacity_is_refused_at_once_and_for_good() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.decide(&Limit::new(10, 1.0), 11, SECOND), Decision::Refuse { retry_after: None });
    }

    /// The original refilled in steps of one second, so that bursts met at the tick.
    #[test]
    fn refills_continuously_without_a_timer() {
        let mut bucket = Bucket::default();
        let limit = Limit::new(10, 10.0);
        assert_eq!(admitted(&mut bucket, &limit, 20, SECOND), 10);
        assert_eq!(admitted(&mut bucket, &limit, 20, SECOND + SECOND / 10), 1);
        assert_eq!(admitted(&mut bucket, &limit, 20, SECOND + SECOND / 2), 4);
        assert_eq!(admitted(&mut bucket, &limit, 20, 100 * SECOND), 10, "never above the capacity");
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let mut bucket = Bucket::default();
        let limit = Limit::new(10, 10.0);
        assert_eq!(admitted(&mut bucket, &limit, 20, 10 * SECOND), 10);
        assert_eq!(admitted(&mut bucket, &limit, 20, 5 * SECOND), 0);
        assert_eq!(admitted(&mut bucket, &limit, 20, 10 * SECOND), 0);
    }

    /// It was refused for as long as the small bucket would have taken to let the large one drain: here for more
    /// than a quarter of an hour.
    #[test]
    fn after_a_cut_whoever_used_more_gets_the_new_rate_at_once_and_a_raise_gives_nothing_back() {
        let (mut bucket, large, small) = (Bucket::default(), Limit::new(1_000, 100.0), Limit::new(10, 1.0));
        assert_eq!(admitted(&mut bucket, &large, 2_000, SECOND), 1_000);
        for second in 1..=4 {
            assert_eq!(admitted(&mut bucket, &small, 99, second * SECOND), u32::from(second > 1));
        }
        let decision = bucket.decide(&small, 1, 5 * SECOND);
        assert_eq!(
            decision,
            Decision::Admit { remaining: 0, full_in: Duration::from_secs(10) },
            "of the small one"
        );
        assert_eq!(admitted(&mut bucket, &small, 99, 8 * SECOND), 3, "what came in three seconds");
        assert_eq!(admitted(&mut bucket, &large, 99, 8 * SECOND), 0, "all of it is still used");
        assert_eq!(admitted(&mut bucket, &small, 99, 8 * SECOND), 0);
        // A quiet client's use drains as a whole.
        assert_eq!(admitted(&mut bucket, &small, 99, 508 * SECOND), 10);
        assert_eq!(admitted(&mut bucket, &large, 999, 508 * SECOND), 490);
    }

    /// A thousand used at a hundred a second are gone after ten, whatever the rate is then.
    #[test]
    fn what_was_used_before_a_cut_has_drained_at_the_rate_before_it() {
        let (large, small) = (Limit::new(1_000, 100.0), Limit::new(1_000, 0.001));
        for (seconds, left) in [(4, 396..=400), (11, 1_000..=1_000)] {
            let mut bucket = Bucket::default();
            assert_eq!(admitted(&mut bucket, &large, 2_000, SECOND), 1_000);
            let then = (1 + seconds) * SECOND;
            assert!(left.contains(&admitted(&mut bucket, &small, 2_000, then)), "after {seconds} s");
            assert_eq!(
                admitted(&mut bucket, &small, 9, then + 10 * SECOND),
                0,
                "and no more does at that rate"
            );
        }
        let mut bucket = Bucket::default();
        assert_eq!(admitted(&mut bucket, &small, 600, SECOND), 600);
        assert_eq!(admitted(&mut bucket, &large, 9_999, 3 * SECOND), 600, "a raise acts at once");
    }

    #[test]
    fn a_raise_and_a_cut_act_on_the_next_decision() {
        let mut bucket = Bucket::default();
        assert_eq!(admitted(&mut bucket, &Limit::new(10, 1.0), 99, SECOND), 10);
        assert_eq!(
            admitted(&mut bucket, &Limit::new(30, 1.0), 99, SECOND),
            20,
            "the raise, less what was used"
        );
        assert_eq!(admitted(&mut bucket, &Limit::new(5, 1.0), 99, SECOND), 0, "the cut");
        let faster = Limit::new(30, 1000.0);
        assert_eq!(admitted(&mut bucket, &faster, 99, SECOND + SECOND / 100), 10, "the faster refill");
    }

    /// With one arrival time per key, alternating two limits of different shape admits a burst at
    /// every turn; see docs/decisions/limiter-state.md.
    #[test]
    fn flipping_a_limit_back_and_forth_admits_nothing_extra() {
        let (slow, fast) = (Limit::new(100, 10.0), Limit::new(100, 1000.0));
        let mut bucket = Bucket::default();
        let mut total = 0;
        for edit in 0..1000_u64 {
            let limit = if edit % 2 == 0 { slow } else { fast };
            total += admitted(&mut bucket, &limit, 50, SECOND + edit * 1_000_000);
        }
        assert!(total <= 100 + 1000, "burst + largest rate for one second, got {total}");
    }

    proptest! {
        /// The limit changes at random between requests that come at random.
        #[test]
        fn no_window_admits_more_than_the_largest_limit(
            steps in proptest::collection::vec((0..400_000_000_u64, 1..50_i64, 1..200_u32, 1..4_u32), 1..300),
        ) {
            let mut bucket = Bucket::default();
            let mut now = 1;
            let mut history: Vec<(u64, u32)> = Vec::new();
            let (mut largest_b, mut largest_r) = (0.0_f64, 0.0_f64);
            for (gap, capacity, rate, cost) in steps {
                now += gap;
                let limit = Limit::new(capacity, f64::from(rate) / 10.0);
                largest_b = largest_b.max(limit.capacity);
                largest_r = largest_r.max(limit.refill_per_second);
                if bucket.decide(&limit, cost, now).is_admitted() {
                    history.push((now, cost));
                }
            }
            for (i, (start, _)) in history.iter().enumerate() {
                let mut sum = 0.0;
                for (end, cost) in &history[i..] {
                    sum += f64::from(*cost);
                    let bound = largest_b + largest_r * (end - start) as f64 / 1e9 + 0.01;
                    prop_assert!(sum <= bound, "{sum} > {bound}");
                }
            }
        }

        /// Against an oracle that counts in whole nanotokens, under one limit.
        #[test]
        fn decides_as_an_exact_oracle_does(
            capacity in 1..1000_i64, rate in 1..10_000_u32,
            gaps in proptest::collection::vec(0..2_000_000_000_u64, 1..200),
        ) {
            let limit = Limit::new(capacity, f64::from(rate));
            let mut bucket = Bucket::default();
            let full = i128::from(capacity) * 1_000_000_000;
            let (mut tokens, mut last, mut now) = (full, 0_u64, 0_u64);
            for gap in gaps {
                now += gap;
                tokens = full.min(tokens + i128::from(now - last) * i128::from(rate));
                last = now;
                let fits = tokens >= 1_000_000_000;
                if fits {
                    tokens -= 1_000_000_000;
                }
                prop_assert_eq!(bucket.decide(&limit, 1, now).is_admitted(), fits);
            }
        }

        #[test]
        fn a_bucket_is_forgotten_when_nothing_is_used_of_it_or_a_hundredth_later(
            capacity in 1..100_000_i64, rate in 1..100_000_u32, used in 1..100_000_u32, start in 0..1_u64 << 60,
        ) {
            let limit = Limit::new(capacity, f64::from(rate) / 100.0);
            let mut bucket = Bucket::default();
            let used = used.min(capacity as u32);
            bucket.decide(&limit, used, start);
            let drained_in = f64::from(used) * 1e9 / limit.refill_per_second();
            let forgotten_in = (bucket.forgotten_at_ns() - start) as f64;
            prop_assert!(forgotten_in >= drained_in.floor() && forgotten_in <= drained_in * 1.01);
        }

        #[test]
        fn waiting_exactly_as_long_as_told_is_enough(
            capacity in 1..100_i64, rate in 1..100_000_u32, start in 1..u64::MAX / 4,
        ) {
            let limit = Limit::new(capacity, f64::from(rate) / 100.0);
            let mut bucket = Bucket::default();
            loop {
                match bucket.decide(&limit, 1, start) {
                    Decision::Admit { .. } => {}
                    Decision::Refuse { retry_after } => {
                        let wait = retry_after.unwrap().as_nanos() as u64;
                        prop_assert!(bucket.decide(&limit, 1, start + wait).is_admitted());
                        break;
                    }
                }
            }
        }
    }
}
