//! Persistence: every SQL statement of the service.
//!
//! | Table | Rows |
//! |---|---|
//! | `budget_days` | amounts used and reserved by all tenants, by UTC day |
//! | `budget_tenant_days` | amounts used and reserved, by tenant and UTC day |
//! | `budget_reservations` | amounts reserved for calls in flight |
//! | `budget_calls` | calls that were charged or failed |
//! | `budget_workflows` | workflows charged to cohorts |
//! | `budget_settings` | settings that all replicas share |
//! | `budget_answers` | cached answers of models |
//!
//! Rows belong to a tenant, except settings and the total of a day. Amounts are whole micro-dollars, times are milliseconds since the Unix epoch. Every statement is
//! understood by SQLite and PostgreSQL, and safe under concurrent replicas: where a decision depends
//! on a row, one statement or one transaction makes both.
//!
//! Rules and arithmetic are left to [`model`](crate::model).

mod answers;
mod cohorts;
mod history;
mod ledger;
mod policies;

use phase6_chassis::store::Migration;

pub use self::{
    answers::AnswerCache,
    cohorts::CohortStore,
    history::CallHistory,
    ledger::{Ledger, RESERVATION_LIFETIME, ReserveError},
    policies::{ChangePolicyError, PolicyStore},
};

/// Schema of the service, oldest step first. The text of a step never changes, not even in its
/// comments: databases remember its checksum and refuse to start with a different one.
pub(crate) const MIGRATIONS: [Migration; 3] = [
    Migration { version: 1, name: "budget", sql: include_str!("../migrations/0001_budget.sql") },
    Migration {
        version: 2,
        name: "settings_version",
        sql: include_str!("../migrations/0002_settings_version.sql"),
    },
    Migration { version: 3, name: "tenants", sql: include_str!("../migrations/0003_tenants.sql") },
];
