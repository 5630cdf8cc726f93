//! The decision for one bucket: the generic cell rate algorithm in its continuous-state leaky-bucket form
//! (ITU-T I.371, annex A).
//!
//! A bucket stores how many tokens are used and when it was last updated. Used tokens drain at the refill
//! rate. Every decision may bring a new limit. Used tokens that do not fit into a smaller capacity move to an
//! *overflow*: the smaller bucket is then empty and refills at its own rate, and a later, larger limit counts
//! the overflow as used again. Guarantees:
//!
//! * In every window of length `w`, at most `B + R * w` tokens are admitted, where `B` is the largest
//!   capacity and `R` the largest rate in force during the window, however often the limit changed in
//!   between.
//! * A new limit takes effect on the next decision. After a cut, a client that used far more than the new
//!   capacity gets the new rate at once: it does not have to wait until its old usage has drained.
//! * Tokens used before an edit drain at the old rate until the first decision after the edit.
//! * `retry_after` of a refusal is exact: a request after that time is admitted if no other request takes the
//!   tokens first.
//!
//! `docs/decisions/limiter-state.md` explains why a bucket does not store an arrival time, the most common
//! form.

use std::time::Duration;

/// Tolerance for rounding errors in token sums: far below one token, far above the error.
const EPSILON: f64 = 1e-6;

/// Capacity and refill rate of a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    capacity: f64,
    refill_per_second: f64,
    /// Nanoseconds per token, precomputed because a multiplication is cheaper than a division.
    ns_per_token: f64,
}

impl Limit {
    /// Creates a limit of `capacity` tokens that refills at `refill_per_second` tokens per second.
    ///
    /// Values below the minimum of a policy are raised to it: one token, 0.001 tokens per second.
    pub fn new(capacity: i64, refill_per_second: f64) -> Self {
        let refill_per_second = if refill_per_second >= 0.001 { refill_per_second } else { 0.001 };
        Self { capacity: capacity.max(1) as f64, refill_per_second, ns_per_token: 1e9 / refill_per_second }
    }

    /// Number of tokens in a full bucket.
    pub fn capacity(&self) -> f64 {
        self.capacity
    }

    /// Refill rate in tokens per second.
    pub fn refill_per_second(&self) -> f64 {
        self.refill_per_second
    }

    /// Time from an empty to a full bucket.
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.capacity / self.refill_per_second)
    }

    /// Time in which `tokens` tokens refill.
    pub(crate) fn time_for(&self, tokens: f64) -> Duration {
        Duration::from_nanos((tokens * self.ns_per_token) as u64)
    }
}

/// The decision on one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// The request is admitted and its tokens are taken.
    Admit {
        /// Whole tokens that remain.
        remaining: u64,
        /// Time until the bucket is full again.
        full_in: Duration,
    },
    /// The request is refused for lack of tokens; none is taken.
    Refuse {
        /// Time until enough tokens are available; `None` if the request costs more than the capacity.
        retry_after: Option<Duration>,
    },
}

impl Decision {
    /// Admits a request under `limit` and leaves `remaining` tokens.
    pub(crate) fn admit(limit: &Limit, remaining: u64) -> Self {
        let missing = (limit.capacity - remaining as f64).max(0.0);
        Self::Admit { remaining, full_in: limit.time_for(missing) }
    }

    /// Returns true if the request is admitted.
    pub fn is_admitted(&self) -> bool {
        matches!(self, Self::Admit { .. })
    }
}

/// State of one bucket. The default is a full bucket.
///
/// 24 bytes, because a smaller table of buckets has fewer cache misses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Used tokens, at most the capacity.
    used: f64,
    /// Time of the last update, in nanoseconds.
    updated_ns: u64,
    /// Used tokens above the capacity, precise to seven digits.
    overflow: f32,
    /// Hash of the capacity of the last decision, to detect an edit.
    capacity_hash: u16,
    /// Time from the last decision until all used tokens have drained, in nanoseconds: the upper half of an
    /// `f32`, rounded up.
    drain_time: u16,
}

impl Bucket {
    /// Takes `cost` tokens under `limit` if they are available at `now_ns`.
    ///
    /// `now_ns` reads a monotonic clock in nanoseconds. A value below that of the last update is treated as
    /// equal to it.
    pub fn decide(&mut self, limit: &Limit, cost: u32, now_ns: u64) -> Decision {
        self.update(limit, now_ns);
        let cost = f64::from(cost);
        let wanted = self.used + cost;
        let fits = wanted <= limit.capacity + EPSILON;
        if fits {
            self.used = wanted;
        }
        self.drain_time = self.packed_drain_time(limit);
        if fits {
            let full_in = limit.time_for(self.used);
            let remaining = (limit.capacity - wanted + EPSILON).max(0.0) as u64;
            Decision::Admit { remaining, full_in }
        } else if cost > limit.capacity {
            Decision::Refuse { retry_after: None }
        } else {
            // Rounded up, so that a retry after exactly this time is admitted.
            let nanos = ((wanted - limit.capacity) * limit.ns_per_token).ceil();
            Decision::Refuse { retry_after: Some(Duration::from_nanos(nanos as u64)) }
        }
    }

    /// Brings the state to `now_ns` and to the capacity of `limit`.
    fn update(&mut self, limit: &Limit, now_ns: u64) {
        self.drain(limit, now_ns);
        self.fit_capacity(limit);
    }

    /// Drains used tokens for the time since the last update.
    fn drain(&mut self, limit: &Limit, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.updated_ns);
        if elapsed > 0 {
            let mut rate = limit.refill_per_second;
            if self.drain_time != self.packed_drain_time(limit) {
                // The rate was edited since the last decision. The bucket does not store the old rate, but
                // the tokens used then divided by their drain time give it, never too high and to within 1 %.
                // The time of the edit is unknown, so the faster of both rates applies to the whole interval.
                // For a new bucket the quotient is NaN, which `max` ignores.
                let previous_rate = self.total() / self.drain_time_ns() * 1e9;
                rate = rate.max(previous_rate);
            }
            let left = self.used - rate * (elapsed as f64 / 1e9);
            self.used = left.max(0.0);
            if self.overflow > 0.0 {
                // The overflow drains only after the bucket itself has drained.
                self.overflow = (f64::from(self.overflow) + left.min(0.0)).max(0.0) as f32;
            }
            self.updated_ns = now_ns;
        }
    }

    /// Divides the used tokens between bucket and overflow anew if the capacity was edited.
    fn fit_capacity(&mut self, limit: &Limit) {
        // Two capacities have the same 16-bit hash with a probability of 1 in 65,536. Such an edit goes
        // undetected: tokens stay divided as they are until the next edit.
        let hash = (limit.capacity.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16;
        if self.capacity_hash != hash {
            let total = self.total();
            self.used = total.min(limit.capacity);
            self.overflow = (total - self.used) as f32;
            self.capacity_hash = hash;
        }
    }

    /// Raises the number of used tokens to at least `used`.
    pub fn raise_used_to(&mut self, used: f64, limit: &Limit, now_ns: u64) {
        self.update(limit, now_ns);
        self.used = self.used.max(used);
        self.drain_time = self.packed_drain_time(limit);
    }

    /// Adds `used` to the used tokens, up to the capacity.
    pub fn add_used(&mut self, used: f64, limit: &Limit, now_ns: u64) {
        self.update(limit, now_ns);
        self.used = (self.used + used).min(limit.capacity);
        self.drain_time = self.packed_drain_time(limit);
    }

    /// Time from the last update until all used tokens, including the overflow, have drained under `limit`.
    pub fn drains_in(&self, limit: &Limit) -> Duration {
        Duration::from_nanos(self.drains_in_ns(limit) as u64)
    }

    /// Used tokens including the overflow.
    fn total(&self) -> f64 {
        self.used + f64::from(self.overflow)
    }

    fn drains_in_ns(&self, limit: &Limit) -> f64 {
        self.total() * limit.ns_per_token
    }

    /// Value of `drain_time` for the current tokens under `limit`.
    fn packed_drain_time(&self, limit: &Limit) -> u16 {
        ((self.drains_in_ns(limit) as f32).to_bits() >> 16) as u16 + 1
    }

    /// Unpacked `drain_time`, in nanoseconds.
    fn drain_time_ns(&self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.drain_time) << 16))
    }

    /// Time in nanoseconds at which all used tokens have drained under the limit of the last decision, up to
    /// 1 % late. From then on the bucket equals a new one and may be dropped.
    pub fn drained_at_ns(&self) -> u64 {
        self.updated_ns.saturating_add(self.drain_time_ns() as u64)
    }
}

#[cfg(test)]
mod tests;
