//! Spending of a day, and records of calls.
//!
//! A day is a UTC date. Amounts are reserved before a call is sent and settled after it:
//!
//! ```text
//! reserve (upper bound of the cost) -> call -> settle (actual cost)
//!                                          \-> release (the call was not sent)
//! ```

use std::{collections::BTreeMap, time::Duration};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use phase6_chassis::identity::Name;

use super::{MicroDollars, ProviderId, Task, Usage};

/// Share of the daily limit from which on a warning is shown.
const WARNING_SHARE: f64 = 0.8;
/// Number of calls from which on a provider can be the top performer of a task.
const MIN_CALLS_OF_TOP_PERFORMER: i64 = 10;

/// Amounts that are charged to a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayAmounts {
    /// Spent.
    pub used: MicroDollars,
    /// Reserved for calls in flight.
    pub reserved: MicroDollars,
}

/// Spending of a day against its limit.
#[derive(Clone, Debug, PartialEq)]
pub struct DailySpending {
    /// UTC date.
    pub date: Date,
    /// Amounts charged to the day.
    pub amounts: DayAmounts,
    /// Daily limit.
    pub limit: MicroDollars,
    /// Number of calls by provider.
    pub calls: BTreeMap<String, i64>,
}

impl DailySpending {
    /// Amount that can still be reserved.
    pub fn remaining(&self) -> MicroDollars {
        self.limit.saturating_sub(self.amounts.used.saturating_add(self.amounts.reserved))
    }

    /// Amount spent, in percent of the limit. Reservations do not count: most of them are released
    /// within seconds.
    pub fn percent(&self) -> f64 {
        self.share() * 100.0
    }

    /// True if at least 80 % of the limit is spent, but not all of it.
    pub fn is_warning(&self) -> bool {
        (WARNING_SHARE..1.0).contains(&self.share())
    }

    /// True if the whole limit is spent.
    pub fn is_blocked(&self) -> bool {
        self.share() >= 1.0
    }

    fn share(&self) -> f64 {
        if self.limit == MicroDollars::ZERO {
            1.0
        } else {
            self.amounts.used.get() as f64 / self.limit.get() as f64
        }
    }
}

/// A reservation that the daily limit does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the daily budget of {limit} would be exceeded: {used} used, {reserved} reserved, {requested} requested{}",
    self.share_of_others()
)]
pub struct BudgetExceeded {
    /// Daily limit.
    pub limit: MicroDollars,
    /// Spent so far by the tenant.
    pub used: MicroDollars,
    /// Reserved for other calls of the tenant.
    pub reserved: MicroDollars,
    /// Amount that was to be reserved.
    pub requested: MicroDollars,
    /// Spent so far by all tenants. Not shown to a tenant.
    pub used_by_all: MicroDollars,
}

impl BudgetExceeded {
    /// Explains amounts that do not exceed the limit by themselves.
    fn share_of_others(&self) -> &'static str {
        let own = self.used.saturating_add(self.reserved).saturating_add(self.requested);
        if own > self.limit { "" } else { "; other tenants use the rest" }
    }

    /// Returns the time after which the limit may allow the reservation: 5 seconds if it only waits
    /// for calls in flight to release what they do not need, otherwise until the next UTC day.
    pub fn retry_after(&self, now: Timestamp) -> Duration {
        const AFTER_CALLS_IN_FLIGHT: Duration = Duration::from_secs(5);
        if self.used_by_all.saturating_add(self.requested) > self.limit {
            time_until_next_utc_day(now)
        } else {
            AFTER_CALLS_IN_FLIGHT
        }
    }
}

/// Outcome of a call, as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The provider answered.
    Success,
    /// No connection could be made.
    Unreachable,
    /// The provider refused the request.
    Refused,
    /// The provider throttled the request.
    Throttled,
    /// The provider failed.
    Failed,
    /// The provider took too long.
    TooSlow,
    /// The connection was lost.
    Broken,
    /// The response does not follow the documented format.
    Malformed,
    /// The provider began to answer and then reported an error.
    Reported,
    /// The answer holds no text.
    Empty,
    /// The call was cancelled after it had been sent.
    Abandoned,
    /// The process that made the call ended before it recorded the outcome.
    Lost,
}

impl CallOutcome {
    /// Name in records and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
            Self::TooSlow => "too-slow",
            Self::Broken => "broken",
            Self::Malformed => "malformed",
            Self::Reported => "reported",
            Self::Empty => "empty",
            Self::Abandoned => "abandoned",
            Self::Lost => "lost",
        }
    }
}

/// Settlement of a call that was sent.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Cost of the call.
    pub cost: MicroDollars,
    /// True if the cost is an estimate, because the provider did not report tokens.
    pub estimated: bool,
    /// Tokens, if the provider reported them.
    pub usage: Option<Usage>,
    /// Model that was called.
    pub model: String,
    /// Kind of answer that the prompt asked for.
    pub task: Task,
    /// Outcome of the call.
    pub outcome: CallOutcome,
    /// Time from the reservation to the end of the call.
    pub latency: Duration,
}

/// Position of a call in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPosition {
    /// Time of the call, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Identifier of the call, which decides between calls of one millisecond.
    pub id: String,
}

/// A recorded call.
#[derive(Clone, Debug, PartialEq)]
pub struct CallRecord {
    /// Unique identifier.
    pub id: String,
    /// Provider that was called.
    pub provider: String,
    /// Model that was called.
    pub model: String,
    /// Cost of the call.
    pub cost: MicroDollars,
    /// True if the cost is an estimate.
    pub estimated: bool,
    /// Time at which the call was settled, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Name of a [`CallOutcome`].
    pub outcome: String,
    /// Duration of the call, in milliseconds.
    pub latency_ms: i64,
}

/// Performance of a provider at one kind of task.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderQuality {
    /// Provider.
    pub provider: String,
    /// Kind of task.
    pub task: String,
    /// Number of recorded calls.
    pub calls: i64,
    /// Share of successful calls, from 0 to 1.
    pub success_rate: f64,
    /// Mean latency of the successful calls, in milliseconds.
    pub mean_latency_ms: f64,
    /// Mean cost of a call, in dollars.
    pub mean_cost_dollars: f64,
}

/// Returns the provider and task with the highest success rate, and of equal ones the one with the
/// lowest latency. Entries of fewer than ten calls do not count.
pub fn top_performer(quality: &[ProviderQuality]) -> Option<&ProviderQuality> {
    let enough = quality.iter().filter(|entry| entry.calls >= MIN_CALLS_OF_TOP_PERFORMER);
    enough.max_by(|a, b| {
        let by_latency = b.mean_latency_ms.total_cmp(&a.mean_latency_ms);
        a.success_rate.total_cmp(&b.success_rate).then(by_latency)
    })
}

/// An amount reserved for one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Unique identifier, which becomes that of the recorded call.
    pub id: String,
    /// Tenant that the call is charged to.
    pub tenant: Name,
    /// UTC date that the call is charged to: the one on which it was reserved.
    pub day: Date,
    /// Provider to be called.
    pub provider: ProviderId,
}

/// Returns the UTC date of `now`.
pub fn utc_day(now: Timestamp) -> Date {
    now.to_zoned_datetime(TimeZone::UTC).date()
}

/// Returns the time until the next UTC day.
pub fn time_until_next_utc_day(now: Timestamp) -> Duration {
    const DAY_MS: i64 = 24 * 3_600_000;
    // POSIX time has no leap seconds, so every day has the same length.
    Duration::from_millis((DAY_MS - now.as_millisecond().rem_euclid(DAY_MS)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spending(used: i64, reserved: i64, limit: i64) -> DailySpending {
        DailySpending {
            date: Date::constant(2026, 11, 24),
            amounts: DayAmounts { used: MicroDollars::new(used), reserved: MicroDollars::new(reserved) },
            limit: MicroDollars::new(limit),
            calls: BTreeMap::new(),
        }
    }

    #[test]
    fn reservations_reduce_what_remains_and_do_not_count_as_spent() {
        let day = spending(700, 300, 1_000);
        assert_eq!(day.remaining(), MicroDollars::ZERO);
        assert!(!day.is_warning() && !day.is_blocked());
        assert!(spending(800, 0, 1_000).is_warning());
        let full = spending(1_000, 0, 1_000);
        assert!(full.is_blocked() && !full.is_warning());
    }

    #[test]
    fn a_limit_of_zero_is_spent_from_the_start() {
        assert!(spending(0, 0, 0).is_blocked());
    }

    #[test]
    fn the_top_performer_has_ten_calls_and_the_highest_success_rate() {
        let quality = |provider: &str, calls, success_rate, mean_latency_ms| ProviderQuality {
            provider: provider.into(),
            task: "general".into(),
            calls,
            success_rate,
            mean_latency_ms,
            mean_cost_dollars: 0.0,
        };
        let entries =
            [quality("new", 9, 1.0, 1.0), quality("slow", 10, 0.9, 20.0), quality("fast", 10, 0.9, 10.0)];
        assert_eq!(top_performer(&entries).unwrap().provider, "fast");
        assert_eq!(top_performer(&entries[..1]), None);
    }
}
