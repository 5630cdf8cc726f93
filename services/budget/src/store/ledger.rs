//! The ledger: amounts reserved and spent under the daily limit.
//!
//! Guarantees that the amounts that all tenants have used and reserved never exceed the daily limit
//! together: the database checks it in the statement that reserves, so the limit holds for all replicas.
//! Transactions lock the total of a day before the rows of its tenants, and days in ascending order. A call is charged
//! to the UTC day on which it was reserved, once. A reservation that is neither settled nor
//! released within [`RESERVATION_LIFETIME`] is charged in full, because the call may have been made.

use std::time::Duration;

use jiff::Timestamp;
use phase6_chassis::{
    identity::Name,
    store::{AnyRow, Row, Statement, Store, StoreError, Tx, sql},
};

use crate::model::{
    MicroDollars, ProviderId, Task,
    spending::{BudgetExceeded, CallOutcome, DailySpending, DayAmounts, Reservation, Settlement, utc_day},
};

/// Time after which a reservation is charged in full: its holder counts as dead.
pub const RESERVATION_LIFETIME: Duration = Duration::from_mins(10);
/// Time for which calls are recorded.
const CALL_RETENTION: Duration = Duration::from_hours(90 * 24);

/// Ledger of all replicas.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    daily_limit: MicroDollars,
}

/// Failure to reserve an amount.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The daily limit does not allow the amount.
    #[error(transparent)]
    BudgetExceeded(#[from] BudgetExceeded),
    /// The database cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ledger {
    /// Creates a ledger over `store` with a daily limit.
    pub fn new(store: Store, daily_limit: MicroDollars) -> Self {
        Self { store, daily_limit }
    }

    /// Reserves `amount` for a call to `provider` by `tenant`. Amounts of zero are never refused.
    ///
    /// # Errors
    ///
    /// See [`ReserveError`].
    pub async fn reserve(
        &self,
        tenant: &Name,
        provider: ProviderId,
        amount: MicroDollars,
        now: Timestamp,
    ) -> Result<Reservation, ReserveError> {
        let reservation = Reservation { id: new_id(), tenant: tenant.clone(), day: utc_day(now), provider };
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
        if granted == 0 && amount > MicroDollars::ZERO {
            drop(tx);
            let DayAmounts { used, reserved } = self.amounts(tenant, &day).await?;
            let exceeded = BudgetExceeded {
                limit: self.daily_limit,
                used,
                reserved,
                requested: amount,
                used_by_all: self.used_by_all(&day).await?,
            };
            return Err(exceeded.into());
        }
        let amount = if granted == 0 { MicroDollars::ZERO } else { amount };
        sql("INSERT INTO budget_tenant_days (tenant, day, used_micros, reserved_micros) VALUES ($1, $2, 0, $3)
             ON CONFLICT (tenant, day) DO UPDATE
             SET reserved_micros = budget_tenant_days.reserved_micros + excluded.reserved_micros")
        .bind(tenant.to_string())
        .bind(day.clone())
        .bind(amount.get())
        .run_in(&mut tx)
        .await?;
        sql("INSERT INTO budget_reservations (id, tenant, day, provider, amount_micros, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(reservation.id.clone())
        .bind(tenant.to_string())
        .bind(day)
        .bind(provider.as_str())
        .bind(amount.get())
        .bind(now.as_millisecond() + RESERVATION_LIFETIME.as_millis() as i64)
        .run_in(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(reservation)
    }

    /// Charges the cost of a call, records the call, and releases the rest of its reservation.
    ///
    /// # Errors
    ///
    /// The database cannot be written. The reservation remains and is charged when it expires.
    pub async fn settle(
        &self,
        reservation: &Reservation,
        settlement: &Settlement,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        // A reservation that has expired is gone, and its whole amount has been charged already.
        let charged = end_reservation(&mut tx, reservation, settlement.cost).await?;
        let usage = settlement.usage.unwrap_or_default();
        let call = NewCall {
            id: reservation.id.clone(),
            tenant: reservation.tenant.to_string(),
            day: reservation.day.to_string(),
            provider: reservation.provider.as_str().to_owned(),
            model: settlement.model.clone(),
            task: settlement.task,
            outcome: settlement.outcome,
            cost_micros: charged.get(),
            estimated: settlement.estimated,
            input_tokens: i64::try_from(usage.input).unwrap_or(i64::MAX),
            output_tokens: i64::try_from(usage.output).unwrap_or(i64::MAX),
            latency_ms: settlement.latency.as_millis() as i64,
        };
        call.insert(&mut tx, now).await?;
        tx.commit().await
    }

    /// Releases the reservation of a call that was not sent. Charges nothing and records no call.
    ///
    /// # Errors
    ///
    /// The database cannot be written. The reservation remains and is charged when it expires.
    pub async fn release(&self, reservation: &Reservation) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        end_reservation(&mut tx, reservation, MicroDollars::ZERO).await?;
        tx.commit().await
    }

    /// Charges expired reservations in full and deletes calls that are older than 90 days. Returns
    /// the number of reservations charged. Replicas may run it at the same time: each reservation
    /// is charged by the one that deletes it.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn reclaim(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut tx = self.store.begin().await?;
        let mut expired = sql("DELETE FROM budget_reservations WHERE expires_ms < $1
             RETURNING id, tenant, day, provider, amount_micros")
        .bind(now.as_millisecond())
        .all_in(&mut tx)
        .await?;
        let day = |row: &AnyRow| row.get::<String, _>("day");
        let tenant = |row: &AnyRow| row.get::<String, _>("tenant");
        expired.sort_by_key(|row| (day(row), tenant(row)));
        for day_rows in expired.chunk_by(|a, b| day(a) == day(b)) {
            let total: i64 = day_rows.iter().map(|row| row.get::<i64, _>("amount_micros")).sum();
            move_to_used(total, total, &day(&day_rows[0])).run_in(&mut tx).await?;
        }
        for row in &expired {
            let amount: i64 = row.get("amount_micros");
            move_to_used_by_tenant(amount, amount, &day(row), tenant(row)).run_in(&mut tx).await?;
            let call = NewCall {
                id: row.get("id"),
                tenant: tenant(row),
                day: day(row),
                provider: row.get("provider"),
                model: String::new(),
                task: Task::General,
                outcome: CallOutcome::Lost,
                cost_micros: amount,
                estimated: true,
                input_tokens: 0,
                output_tokens: 0,
                latency_ms: 0,
            };
            call.insert(&mut tx, now).await?;
        }
        sql("DELETE FROM budget_calls WHERE at_ms < $1")
            .bind(now.as_millisecond() - CALL_RETENTION.as_millis() as i64)
            .run_in(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(expired.len())
    }

    /// Returns the spending of a tenant on the UTC day of `now`.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn spending(&self, tenant: &Name, now: Timestamp) -> Result<DailySpending, StoreError> {
        let date = utc_day(now);
        let amounts = self.amounts(tenant, &date.to_string()).await?;
        let rows = sql("SELECT provider, COUNT(*) AS calls FROM budget_calls
             WHERE tenant = $1 AND day = $2 GROUP BY provider")
        .bind(tenant.to_string())
        .bind(date.to_string())
        .all(&self.store)
        .await?;
        Ok(DailySpending {
            date,
            amounts,
            limit: self.daily_limit,
            calls: rows.iter().map(|row| (row.get("provider"), row.get("calls"))).collect(),
        })
    }

    async fn used_by_all(&self, day: &str) -> Result<MicroDollars, StoreError> {
        let row = sql("SELECT used_micros FROM budget_days WHERE day = $1").bind(day.to_owned());
        let row = row.first(&self.store).await?;
        Ok(row.map_or(MicroDollars::ZERO, |row| MicroDollars::new(row.get("used_micros"))))
    }

    async fn amounts(&self, tenant: &Name, day: &str) -> Result<DayAmounts, StoreError> {
        let row = sql("SELECT used_micros, reserved_micros FROM budget_tenant_days
             WHERE tenant = $1 AND day = $2")
        .bind(tenant.to_string())
        .bind(day.to_owned())
        .first(&self.store)
        .await?;
        Ok(row.map_or(DayAmounts::default(), |row| DayAmounts {
            used: MicroDollars::new(row.get("used_micros")),
            reserved: MicroDollars::new(row.get("reserved_micros")),
        }))
    }
}

/// Deletes a reservation and charges `cost` to its day instead. Returns what is charged: nothing if the
/// reservation did not exist, because it has expired and its whole amount was charged.
async fn end_reservation(
    tx: &mut Tx,
    reservation: &Reservation,
    cost: MicroDollars,
) -> Result<MicroDollars, StoreError> {
    let row = sql("DELETE FROM budget_reservations WHERE id = $1 RETURNING amount_micros")
        .bind(reservation.id.clone())
        .first_in(tx)
        .await?;
    let Some(row) = row else { return Ok(MicroDollars::ZERO) };
    let (reserved, day) = (row.get("amount_micros"), reservation.day.to_string());
    move_to_used(reserved, cost.get(), &day).run_in(tx).await?;
    move_to_used_by_tenant(reserved, cost.get(), &day, reservation.tenant.to_string()).run_in(tx).await?;
    Ok(cost)
}

/// Changes the total of a day: takes `reserved` off the reserved amount, and adds `used` to the used one.
fn move_to_used(reserved: i64, used: i64, day: &str) -> Statement {
    sql("UPDATE budget_days SET reserved_micros = reserved_micros - $1, used_micros = used_micros + $2
         WHERE day = $3")
    .bind(reserved)
    .bind(used)
    .bind(day.to_owned())
}

/// Changes the amounts of a tenant likewise. A replica of an earlier version reserves only in the total, so there
/// may be less than `reserved`.
fn move_to_used_by_tenant(reserved: i64, used: i64, day: &str, tenant: String) -> Statement {
    sql("INSERT INTO budget_tenant_days (tenant, day, used_micros, reserved_micros) VALUES ($1, $2, $3, 0)
         ON CONFLICT (tenant, day) DO UPDATE SET
             used_micros = budget_tenant_days.used_micros + excluded.used_micros,
             reserved_micros = CASE WHEN budget_tenant_days.reserved_micros < $4 THEN 0
                 ELSE budget_tenant_days.reserved_micros - $4 END")
    .bind(tenant)
    .bind(day.to_owned())
    .bind(used)
    .bind(reserved)
}

/// A row of `budget_calls`.
struct NewCall {
    id: String,
    tenant: String,
    day: String,
    provider: String,
    model: String,
    task: Task,
    outcome: CallOutcome,
    cost_micros: i64,
    estimated: bool,
    input_tokens: i64,
    output_tokens: i64,
    latency_ms: i64,
}

impl NewCall {
    async fn insert(self, tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
        sql("INSERT INTO budget_calls
             (id, tenant, day, at_ms, provider, model, task, outcome, cost_micros, estimated, input_tokens, output_tokens, latency_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING")
            .bind(self.id)
            .bind(self.tenant)
            .bind(self.day)
            .bind(now.as_millisecond())
            .bind(self.provider)
            .bind(self.model)
            .bind(self.task.as_str())
            .bind(self.outcome.as_str())
            .bind(self.cost_micros)
            .bind(i64::from(self.estimated))
            .bind(self.input_tokens)
            .bind(self.output_tokens)
            .bind(self.latency_ms)
            .run_in(tx)
            .await
            .map(drop)
    }
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
