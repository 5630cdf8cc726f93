//! Leases and jobs on SQLite and PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod jobs;
mod lease;

use std::time::Duration;

use phase6_jobs::{Lease, MIGRATIONS};
use phase6_store::{
    PoolLimits, Row, Store, sql,
    testing::{Kind, TestDatabase},
};

/// Lifetime of a lease that does not expire during a test.
const LONG: Duration = Duration::from_mins(5);

/// A database with the tables of the tests.
struct Database {
    database: TestDatabase,
    store: Store,
}

impl Database {
    async fn create(kind: Kind) -> Self {
        let database = TestDatabase::create(kind).await;
        let store = connect(&database).await;
        sql("CREATE TABLE effects (id TEXT PRIMARY KEY, holder BIGINT NOT NULL)").run(&store).await.unwrap();
        Self { database, store }
    }

    fn lease(&self, holder: &str, lifetime: Duration) -> Lease {
        Lease::new(self.store.clone(), "test", holder, lifetime)
    }

    async fn effects(&self) -> Vec<i64> {
        let rows = sql("SELECT holder FROM effects ORDER BY id").all(&self.store).await.unwrap();
        rows.iter().map(|row| row.get("holder")).collect()
    }
}

async fn connect(database: &TestDatabase) -> Store {
    let store = Store::connect(&database.url, PoolLimits::default()).await.unwrap();
    store.migrate("jobs", &MIGRATIONS).await.unwrap();
    store
}
