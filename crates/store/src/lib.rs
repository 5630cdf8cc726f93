//! Records in SQL: SQLite on a laptop, PostgreSQL in a cluster, one schema for both.
//!
//! ```text
//! sql("... $1 ...").bind(x).all(&store) -> pool (bounded, timed) -> rows | StoreError
//!                                              |
//!                                              '-> statements that took long, with a hint
//! ```
//!
//! * [`Store`] connects, migrates and shows what its pool does.
//! * [`Statement`] runs with a time limit; what takes long is remembered without its values.
//! * [`Batch`] turns reads of single keys into one read for all that come within a tick.
//! * [`StoreError`] says whether trying again later can help.
//!
//! The common SQL is what both databases understand: `$1` placeholders, `BIGINT`, `TEXT`,
//! `DOUBLE PRECISION`, `ON CONFLICT`, `RETURNING`; sums are cast to `BIGINT`.

mod batch;
mod error;
mod slow;
mod statement;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod url;

pub use batch::Batch;
pub use error::StoreError;
pub use slow::{SlowStatement, normalise};
pub use sqlx::{Row, any::AnyRow};
pub use statement::{Statement, Tx, sql};
pub use store::{Migration, PoolLimits, PoolSnapshot, Store};
pub use url::{DatabaseUrl, InvalidUrl};
