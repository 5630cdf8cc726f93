//! What was spent, what is set aside, and the limit that the two together never pass.
//!
//! ```text
//! reserve (most it can cost) -> call -> settle (what it did cost)
//!                                   \-> release (nothing was done)
//! ```
//!
//! The limit is checked by the database in the statement that sets the amount aside, so it holds
//! for all replicas together. A reservation whose holder died is charged in full when it expires:
//! the call may have been made. A day is a UTC date; a call is charged to the day on which it was
//! begun.

use std::{collections::BTreeMap, time::Duration};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use phase6_chassis::store::{Row, Store, StoreError, sql};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    money::Micros,
    provider::{ProviderId, Usage},
    routing::Task,
};

/// After this time the holder of a reservation is taken for dead.
pub const HOLDER_DEAD: Duration = Duration::from_mins(10);
/// Calls are remembered for so long.
const REMEMBERED: Duration = Duration::from_hours(90 * 24);
/// Calls shown in the history.
const SHOWN: i64 = 200;

/// The spending of all replicas.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    daily_limit: Micros,
}

/// An amount set aside for one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    id: String,
    day: Date,
    provider: ProviderId,
    amount: Micros,
}

/// Why nothing was set aside.
#[derive(Debug, thiserror::Error)]
pub enum NotReserved {
    /// The day's limit would be passed.
    #[error(
        "the daily budget of {limit} would be passed: {used} used, {reserved} set aside, {wanted} wanted"
    )]
    Exceeded {
        /// The limit.
        limit: Micros,
        /// Spent so far.
        used: Micros,
        /// Set aside for other calls.
        reserved: Micros,
        /// What was asked for.
        wanted: Micros,
    },
    /// The records cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NotReserved {
    /// When the limit may allow it: as soon as calls under way have given back what they did not
    /// need, or tomorrow.
    pub fn retry_after(&self, now: Timestamp) -> Duration {
        const SOON: Duration = Duration::from_secs(5);
        match self {
            Self::Exceeded { limit, used, wanted, .. } if used.plus(*wanted) > *limit => until_tomorrow(now),
            Self::Exceeded { .. } | Self::Store(_) => SOON,
        }
    }
}

/// What became of a call.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// What it cost.
    pub cost: Micros,
    /// Whether the cost is our estimate, because the provider did not say.
    pub estimated: bool,
    /// Tokens, if they are known.
    pub usage: Option<Usage>,
    /// The model that was asked.
    pub model: String,
    /// What kind of answer was wanted.
    pub task: Task,
    /// `success`, or what went wrong in a word.
    pub outcome: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// A day's spending.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Day {
    /// UTC date.
    pub date: String,
    /// Spent, in dollars.
    #[schema(value_type = f64)]
    pub used: Micros,
    /// The same under its other name.
    #[schema(value_type = f64)]
    pub spent: Micros,
    /// Set aside for calls under way.
    #[schema(value_type = f64)]
    pub reserved: Micros,
    /// Most that may be spent in a day.
    #[schema(value_type = f64)]
    pub limit: Micros,
    /// What is left.
    #[schema(value_type = f64)]
    pub remaining: Micros,
    /// Spent, in percent of the limit.
    pub percent: f64,
    /// Calls by provider.
    pub calls: BTreeMap<String, i64>,
    /// Four fifths are spent.
    pub warning: bool,
    /// All of it is spent.
    pub blocked: bool,
}

/// One call of the history.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Whom it went to.
    pub provider: String,
    /// The model that was asked.
    pub model: String,
    /// What it cost, in dollars.
    #[schema(value_type = f64)]
    pub cost: Micros,
    /// Whether the cost is our estimate.
    pub estimated: bool,
    /// When, in milliseconds of the epoch.
    pub t: i64,
    /// `success`, or what went wrong in a word.
    pub outcome: String,
    /// How long it took, in milliseconds.
    pub latency_ms: i64,
}

/// How a provider has done at a kind of task.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// The provider.
    pub provider: String,
    /// The kind of task.
    pub task: String,
    /// Calls.
    pub outcomes: i64,
    /// Share that succeeded, from 0 to 1.
    pub success_rate: f64,
    /// Mean latency of those that succeeded, in milliseconds.
    pub avg_latency: f64,
    /// Mean cost of a call, in dollars.
    pub avg_cost: f64,
}

impl Ledger {
    /// The spending in `store`, under a daily limit.
    pub fn new(store: Store, daily_limit: Micros) -> Self {
        Self { store, daily_limit }
    }

    /// Sets `amount` aside for a call to `provider`, if the day's limit allows it.
    ///
    /// # Errors
    ///
    /// See [`NotReserved`].
    pub async fn reserve(
        &self,
        provider: ProviderId,
        amount: Micros,
        now: Timestamp,
    ) -> Result<Reservation, NotReserved> {
        let reservation = Reservation { id: new_id(), day: utc_day(now), provider, amount };
        let day = reservation.day.to_string();
        let mut tx = self.store.begin().await?;
        sql("INSERT INTO budget_days (day, used_micros, reserved_micros) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING")
            .bind(day.clone())
            .run_in(&mut tx)
            .await?;
        let granted = sql("UPDATE budget_days SET reserved_micros = reserved_micros + $1
             WHERE day = $2 AND used_micros + reserved_micros + $1 <= $3")
        .bind(amount.get())
        .bind(day.clone())
        .bind(self.daily_limit.get())
        .run_in(&mut tx)
        .await?;
        if granted == 0 && amount > Micros::ZERO {
            drop(tx);
            let (used, reserved) = self.amounts(&day).await?;
            return Err(NotReserved::Exceeded { limit: self.daily_limit, used, reserved, wanted: amount });
        }
        sql("INSERT INTO budget_reservations (id, day, provider, amount_micros, expires_ms) VALUES ($1, $2, $3, $4, $5)")
            .bind(reservation.id.clone())
            .bind(day)
            .bind(provider.as_str())
            .bind(if granted == 0 { 0 } else { amount.get() })
            .bind(now.as_millisecond() + HOLDER_DEAD.as_millis() as i64)
            .run_in(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(reservation)
    }

    /// Charges what a call did cost and gives back the rest of what was set aside.
    ///
    /// # Errors
    ///
    /// The records cannot be written; the reservation stays and is charged when it expires.
    pub async fn settle(
        &self,
        reservation: &Reservation,
        settlement: &Settlement,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        // Gone if it was taken for dead: then its whole amount has been charged already.
        let charged = if self.take(&mut tx, reservation).await? { settlement.cost } else { Micros::ZERO };
        sql("UPDATE budget_days SET used_micros = used_micros + $1 WHERE day = $2")
            .bind(charged.get())
            .bind(reservation.day.to_string())
            .run_in(&mut tx)
            .await?;
        let usage = settlement.usage.unwrap_or_default();
        sql("INSERT INTO budget_calls
             (id, day, at_ms, provider, model, task, outcome, cost_micros, estimated, input_tokens, output_tokens, latency_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING")
            .bind(reservation.id.clone())
            .bind(reservation.day.to_string())
            .bind(now.as_millisecond())
            .bind(reservation.provider.as_str())
            .bind(settlement.model.clone())
            .bind(settlement.task.as_str())
            .bind(settlement.outcome)
            .bind(charged.get())
            .bind(i64::from(settlement.estimated))
            .bind(i64::try_from(usage.input).unwrap_or(i64::MAX))
            .bind(i64::try_from(usage.output).unwrap_or(i64::MAX))
            .bind(settlement.took.as_millis() as i64)
            .run_in(&mut tx)
            .await?;
        tx.commit().await
    }

    /// Gives back what was set aside for a call that was never made. Nothing is charged, and no call
    /// is counted.
    ///
    /// # Errors
    ///
    /// The records cannot be written; the reservation stays and is charged when it expires.
    pub async fn release(&self, reservation: &Reservation) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        self.take(&mut tx, reservation).await?;
        tx.commit().await
    }

    /// Removes a reservation and gives its amount back to the day; false if it was gone.
    async fn take(
        &self,
        tx: &mut phase6_chassis::store::Tx,
        reservation: &Reservation,
    ) -> Result<bool, StoreError> {
        let row = sql("DELETE FROM budget_reservations WHERE id = $1 RETURNING amount_micros")
            .bind(reservation.id.clone())
            .first_in(tx)
            .await?;
        let Some(row) = row else { return Ok(false) };
        sql("UPDATE budget_days SET reserved_micros = reserved_micros - $1 WHERE day = $2")
            .bind(row.get::<i64, _>(0))
            .bind(reservation.day.to_string())
            .run_in(tx)
            .await?;
        Ok(true)
    }

    /// Charges reservations whose holder died, and forgets calls that are too old. Gives the number
    /// charged.
    ///
    /// # Errors
    ///
    /// The records cannot be written.
    pub async fn reclaim(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut tx = self.store.begin().await?;
        let dead = sql("DELETE FROM budget_reservations WHERE expires_ms < $1
             RETURNING id, day, provider, amount_micros")
        .bind(now.as_millisecond())
        .all_in(&mut tx)
        .await?;
        for row in &dead {
            let (id, day, provider, amount): (String, String, String, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            sql("UPDATE budget_days SET reserved_micros = reserved_micros - $1, used_micros = used_micros + $1 WHERE day = $2")
                .bind(amount)
                .bind(day.clone())
                .run_in(&mut tx)
                .await?;
            sql("INSERT INTO budget_calls
                 (id, day, at_ms, provider, model, task, outcome, cost_micros, estimated, input_tokens, output_tokens, latency_ms)
                 VALUES ($1, $2, $3, $4, '', 'general', 'lost', $5, 1, 0, 0, 0) ON CONFLICT DO NOTHING")
                .bind(id)
                .bind(day)
                .bind(now.as_millisecond())
                .bind(provider)
                .bind(amount)
                .run_in(&mut tx)
                .await?;
        }
        sql("DELETE FROM budget_calls WHERE at_ms < $1")
            .bind(now.as_millisecond() - REMEMBERED.as_millis() as i64)
            .run_in(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(dead.len())
    }

    async fn amounts(&self, day: &str) -> Result<(Micros, Micros), StoreError> {
        let row = sql("SELECT used_micros, reserved_micros FROM budget_days WHERE day = $1")
            .bind(day.to_owned())
            .first(&self.store)
            .await?;
        Ok(row.map_or((Micros::ZERO, Micros::ZERO), |row| (Micros::new(row.get(0)), Micros::new(row.get(1)))))
    }

    /// The spending of the day of `now`.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn day(&self, now: Timestamp) -> Result<Day, StoreError> {
        let date = utc_day(now).to_string();
        let (used, reserved) = self.amounts(&date).await?;
        let rows = sql("SELECT provider, COUNT(*) FROM budget_calls WHERE day = $1 GROUP BY provider")
            .bind(date.clone())
            .all(&self.store)
            .await?;
        let limit = self.daily_limit;
        let taken = used.plus(reserved);
        // What is set aside comes back in part: it blocks calls for seconds, not for the day.
        let share = if limit == Micros::ZERO { 1.0 } else { used.get() as f64 / limit.get() as f64 };
        Ok(Day {
            date,
            used,
            spent: used,
            reserved,
            limit,
            remaining: limit.minus(taken),
            percent: share * 100.0,
            calls: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
            warning: (0.8..1.0).contains(&share),
            blocked: share >= 1.0,
        })
    }

    /// The newest calls, newest first.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn history(&self) -> Result<Vec<Call>, StoreError> {
        let rows = sql("SELECT provider, model, cost_micros, estimated, at_ms, outcome, latency_ms
             FROM budget_calls ORDER BY at_ms DESC LIMIT $1")
        .bind(SHOWN)
        .all(&self.store)
        .await?;
        let call = |row: &phase6_chassis::store::AnyRow| Call {
            provider: row.get(0),
            model: row.get(1),
            cost: Micros::new(row.get(2)),
            estimated: row.get::<i64, _>(3) != 0,
            t: row.get(4),
            outcome: row.get(5),
            latency_ms: row.get(6),
        };
        Ok(rows.iter().map(call).collect())
    }

    /// How providers have done at each kind of task, over what is remembered.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn quality(&self) -> Result<Vec<Quality>, StoreError> {
        let rows = sql("SELECT provider, task, COUNT(*),
                CAST(SUM(CASE WHEN outcome = 'success' THEN 1 ELSE 0 END) AS BIGINT),
                CAST(SUM(CASE WHEN outcome = 'success' THEN latency_ms ELSE 0 END) AS BIGINT),
                CAST(SUM(cost_micros) AS BIGINT)
             FROM budget_calls WHERE outcome <> 'lost' GROUP BY provider, task ORDER BY provider, task")
        .all(&self.store)
        .await?;
        let quality = |row: &phase6_chassis::store::AnyRow| {
            let (outcomes, good, latency, cost): (i64, i64, i64, i64) =
                (row.get(2), row.get(3), row.get(4), row.get(5));
            Quality {
                provider: row.get(0),
                task: row.get(1),
                outcomes,
                success_rate: good as f64 / outcomes.max(1) as f64,
                avg_latency: latency as f64 / good.max(1) as f64,
                avg_cost: cost as f64 / 1e6 / outcomes.max(1) as f64,
            }
        };
        Ok(rows.iter().map(quality).collect())
    }
}

/// The UTC date of a moment.
pub fn utc_day(now: Timestamp) -> Date {
    now.to_zoned_datetime(TimeZone::UTC).date()
}

/// Time until the next UTC day.
pub fn until_tomorrow(now: Timestamp) -> Duration {
    const DAY_MS: i64 = 24 * 3_600_000;
    // POSIX time has no leap seconds: every day has the same length.
    Duration::from_millis((DAY_MS - now.as_millisecond().rem_euclid(DAY_MS)) as u64)
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
