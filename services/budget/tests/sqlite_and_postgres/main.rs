//! The store against SQLite and PostgreSQL: identical guarantees on both databases.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod answers;
mod cohorts;
mod ledger;
mod policies;

use jiff::Timestamp;
use phase6_budget::SERVICE;
use phase6_chassis::identity::Name;
use phase6_store::{
    PoolLimits, Store,
    testing::{Kind, TestDatabase},
};

/// Creates an empty database with the schema of the service.
async fn store(kind: Kind) -> (Store, TestDatabase) {
    let database = TestDatabase::create(kind).await;
    let store = another_replica(&database).await;
    store.migrate(SERVICE.service.name, SERVICE.needs.store.unwrap()).await.unwrap();
    (store, database)
}

/// Connects to a database with a separate pool, as another replica does.
async fn another_replica(database: &TestDatabase) -> Store {
    Store::connect(&database.url, PoolLimits::default()).await.unwrap()
}

/// The tenant of most tests.
fn acme() -> Name {
    "acme".parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOON: &str = "2026-11-24T12:00:00Z";
