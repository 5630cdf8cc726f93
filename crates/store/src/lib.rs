//! SQL storage: SQLite on a developer's machine, PostgreSQL in a cluster, one schema for both.
//!
//! ```text
//! sql("... $1 ...").bind(x).all(&store) -> pool (bounded, time limit) -> rows | StoreError
//!                                              |
//!                                              '-> slow statements, with a hint
//! ```
//!
//! * [`Store`] connects, migrates the schema and reports the state of its connection pool.
//! * [`Statement`] runs within a time limit; slow statements are recorded without their values.
//! * [`BatchLoader`] combines concurrent reads of single keys into one read.
//! * [`SettingsTable`] has settings that all replicas share, with a version for each change.
//! * [`StoreError`] distinguishes transient failures from permanent ones.
//!
//! Statements use the SQL that both databases understand: `$1` placeholders, `BIGINT`, `TEXT`,
//! `DOUBLE PRECISION`, `ON CONFLICT`, `RETURNING`; sums are cast to `BIGINT`.

mod batch;
mod error;
mod plan;
mod slow;
mod statement;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod url;
mod versioned;

pub use batch::BatchLoader;
pub use error::{StoreError, TransientCondition};
pub use slow::SlowStatement;
pub use sqlx::{Row, any::AnyRow};
pub use statement::{Statement, Tx, sql};
pub use store::{Migration, PoolLimits, PoolSnapshot, Store};
pub use url::{DatabaseUrl, InvalidUrl};
pub use versioned::{ExpectedVersion, SettingsTable, VersionMismatch, Versioned};
