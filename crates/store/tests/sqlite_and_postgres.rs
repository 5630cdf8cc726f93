//! Store behavior, identical on SQLite and PostgreSQL.
//!
//! The PostgreSQL tests need a server: `cargo xtask test` starts one and sets `PHASE6_TEST_POSTGRES`.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use phase6_store::{
    DatabaseUrl, Migration, PoolLimits, Row, Store, StoreError, on_both_databases, sql,
    testing::{Kind, TestDatabase},
};

const MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, name: "things", sql: include_str!("migrations/0001_things.sql") }];

/// A store with a migrated schema, and the database it is connected to.
struct Fixture {
    store: Store,
    database: TestDatabase,
}

impl Fixture {
    async fn with_limits(kind: Kind, limits: PoolLimits) -> Self {
        let database = TestDatabase::create(kind).await;
        let store = Store::connect(&database.url, limits).await.unwrap();
        store.migrate("things", &MIGRATIONS).await.unwrap();
        Self { store, database }
    }

    async fn new(kind: Kind) -> Self {
        Self::with_limits(kind, PoolLimits::default()).await
    }
}

async fn insert(store: &Store, id: &str, amount: i64) -> Result<u64, StoreError> {
    sql("INSERT INTO things (id, amount, share, note) VALUES ($1, $2, $3, $4)")
        .bind(id.to_owned())
        .bind(amount)
        .bind(0.5)
        .bind(None::<String>)
        .run(store)
        .await
}

async fn amount(store: &Store, id: &str) -> Option<i64> {
    let row = sql("SELECT amount FROM things WHERE id = $1").bind(id.to_owned()).first(store).await.unwrap();
    row.map(|row| row.get(0))
}

async fn values_read_back_unchanged(kind: Kind) {
    let Fixture { store, .. } = &Fixture::new(kind).await;
    insert(store, "a", i64::MAX).await.unwrap();
    let row = sql("SELECT amount, share, note, id FROM things").first(store).await.unwrap().unwrap();
    assert_eq!(row.get::<i64, _>(0), i64::MAX);
    assert!((row.get::<f64, _>(1) - 0.5).abs() < f64::EPSILON);
    assert_eq!(row.get::<Option<String>, _>(2), None);
    assert_eq!(row.get::<String, _>(3), "a");
}

async fn a_duplicate_key_is_a_conflict(kind: Kind) {
    let Fixture { store, .. } = &Fixture::new(kind).await;
    insert(store, "a", 1).await.unwrap();
    assert!(matches!(insert(store, "a", 2).await, Err(StoreError::Conflict(_))));
    assert_eq!(amount(store, "a").await, Some(1));
}

async fn a_second_migration_changes_nothing_and_owners_are_independent(kind: Kind) {
    let Fixture { store, .. } = &Fixture::new(kind).await;
    insert(store, "a", 1).await.unwrap();
    store.migrate("things", &MIGRATIONS).await.unwrap();
    assert_eq!(amount(store, "a").await, Some(1));
    let second = store.migrate("others", &MIGRATIONS).await;
    assert!(
        matches!(second, Err(StoreError::Migration(_))),
        "the second owner has a separate list, so it creates the existing table again"
    );
}

async fn a_transaction_is_atomic_and_isolated(kind: Kind) {
    let Fixture { store, .. } = &Fixture::new(kind).await;
    let mut tx = store.begin().await.unwrap();
    sql("INSERT INTO things (id, amount, share) VALUES ('t', 1, 0)").run_in(&mut tx).await.unwrap();
    assert_eq!(amount(store, "t").await, None, "invisible outside the transaction");
    drop(tx);
    assert_eq!(amount(store, "t").await, None, "rolled back");
    let mut tx = store.begin().await.unwrap();
    sql("INSERT INTO things (id, amount, share) VALUES ('t', 1, 0)").run_in(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(amount(store, "t").await, Some(1));
}

async fn concurrent_conditional_updates_never_exceed_the_bound(kind: Kind) {
    let Fixture { store, .. } = &Fixture::new(kind).await;
    insert(store, "a", 0).await.unwrap();
    let updates: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                sql("UPDATE things SET amount = amount + 3 WHERE id = 'a' AND amount + 3 <= 100 RETURNING amount")
                    .returning(&store)
                    .await
                    .unwrap()
                    .len()
            })
        })
        .collect();
    let mut granted = 0;
    for update in updates {
        granted += update.await.unwrap();
    }
    assert_eq!((granted, amount(store, "a").await), (33, Some(99)));
}

/// The original system opened ten connections with a maximum of three.
async fn the_pool_never_exceeds_its_maximum(kind: Kind) {
    let limits = PoolLimits { max_connections: 3, ..PoolLimits::default() };
    let Fixture { store, .. } = &Fixture::with_limits(kind, limits).await;
    let reads: Vec<_> = (0..30)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    sql("SELECT COUNT(*) FROM things").first(&store).await.unwrap();
                    let pool = store.snapshot();
                    assert!(pool.pool_size <= pool.max_connections, "{pool:?}");
                    assert!(pool.utilization <= 1.0);
                }
            })
        })
        .collect();
    for read in reads {
        read.await.unwrap();
    }
}

async fn wait_until(expected: &str, mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("timed out waiting until {expected}"));
}

async fn the_snapshot_counts_active_and_idle_connections(kind: Kind) {
    let limits = PoolLimits { max_connections: 4, ..PoolLimits::default() };
    let Fixture { store, .. } = &Fixture::with_limits(kind, limits).await;
    // SQLite has one more connection, for the writer.
    let max = if kind == Kind::Sqlite { 5 } else { 4 };
    wait_until("no connection is in use", || store.snapshot().active_count == 0).await;
    let idle = store.snapshot();
    assert!(idle.pool_size >= 1 && idle.available_connections == idle.pool_size, "{idle:?}");
    assert_eq!((idle.active_count, idle.max_connections), (0, max));
    let tx = store.begin().await.unwrap();
    let busy = store.snapshot();
    assert_eq!((busy.active_count, busy.utilization), (1, 1.0 / f64::from(max)));
    drop(tx);
    wait_until("no connection is in use", || store.snapshot().active_count == 0).await;
    assert!(store.snapshot().utilization.abs() < f64::EPSILON);
}

async fn a_cancelled_caller_releases_its_connection(kind: Kind) {
    let limits = PoolLimits { max_connections: 1, ..PoolLimits::default() };
    let Fixture { store, .. } = &Fixture::with_limits(kind, limits).await;
    for _ in 0..20 {
        let read = sql("SELECT COUNT(*) FROM things").first(store);
        let _ = tokio::time::timeout(Duration::from_micros(50), read).await;
    }
    store.ping().await.unwrap();
}

/// In the original system, callers that waited for a connection during a shutdown got no error until
/// their timeout.
async fn closing_fails_callers_that_wait_for_a_connection(kind: Kind) {
    let limits =
        PoolLimits { max_connections: 1, acquire_timeout: Duration::from_secs(8), ..PoolLimits::default() };
    let Fixture { store, .. } = &Fixture::with_limits(kind, limits).await;
    let held = store.begin().await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.begin().await.map(drop) }
    });
    while store.snapshot().active_count == 0 {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    let result = tokio::time::timeout(Duration::from_secs(4), waiting).await.expect("fails at once").unwrap();
    assert!(result.unwrap_err().is_unavailable());
    drop(held);
    closing.await.unwrap();
    assert!(store.ping().await.unwrap_err().is_unavailable());
}

async fn a_full_pool_fails_after_the_acquire_timeout(kind: Kind) {
    let limits = PoolLimits {
        max_connections: 1,
        acquire_timeout: Duration::from_millis(50),
        ..PoolLimits::default()
    };
    let Fixture { store, .. } = &Fixture::with_limits(kind, limits).await;
    let _held = store.begin().await.unwrap();
    let Err(error) = store.begin().await else { panic!("the pool has one connection") };
    assert!(error.is_unavailable(), "{error}");
}

async fn slow_statements_are_recorded_without_values_and_with_a_hint(kind: Kind) {
    let limits = PoolLimits { slow_statement: Duration::ZERO, ..PoolLimits::default() };
    let Fixture { store, .. } = &Fixture::with_limits(kind, limits).await;
    for i in 0..5_i64 {
        insert(store, &format!("id{i}"), i).await.unwrap();
    }
    sql("SELECT id FROM things WHERE note = $1 AND amount > 3")
        .bind("secret".to_owned())
        .all(store)
        .await
        .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let slow = store.snapshot().slow_statements;
        let recorded =
            slow.iter().find(|slow| slow.statement == "select id from things where note = ? and amount > ?");
        if let Some(hint) = recorded.and_then(|slow| slow.hint.as_deref()) {
            assert_eq!(hint, "full scan of things; consider an index on (note, amount)");
            let insert = slow.iter().find(|slow| slow.statement.starts_with("insert into things")).unwrap();
            assert_eq!((insert.count, insert.hint.as_deref()), (5, None));
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no hint: {slow:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn committed_records_survive_a_reconnect(kind: Kind) {
    let Fixture { store, database } = Fixture::new(kind).await;
    insert(&store, "a", 5).await.unwrap();
    store.close().await;
    let reconnected = Store::connect(&database.url, PoolLimits::default()).await.unwrap();
    assert_eq!(amount(&reconnected, "a").await, Some(5));
}

/// In the original system, tests shared a folder, and their results depended on files of earlier runs.
async fn test_databases_are_isolated_from_each_other(kind: Kind) {
    let (one, other) = (Fixture::new(kind).await, Fixture::new(kind).await);
    insert(&one.store, "a", 1).await.unwrap();
    assert_eq!(amount(&other.store, "a").await, None);
    insert(&other.store, "a", 2).await.expect("no conflict");
    assert_eq!((amount(&one.store, "a").await, amount(&other.store, "a").await), (Some(1), Some(2)));
}

on_both_databases! {
    values_read_back_unchanged,
    a_duplicate_key_is_a_conflict,
    a_second_migration_changes_nothing_and_owners_are_independent,
    a_transaction_is_atomic_and_isolated,
    concurrent_conditional_updates_never_exceed_the_bound,
    the_pool_never_exceeds_its_maximum,
    the_snapshot_counts_active_and_idle_connections,
    a_cancelled_caller_releases_its_connection,
    closing_fails_callers_that_wait_for_a_connection,
    a_full_pool_fails_after_the_acquire_timeout,
    slow_statements_are_recorded_without_values_and_with_a_hint,
    committed_records_survive_a_reconnect,
    test_databases_are_isolated_from_each_other,
}

#[tokio::test]
async fn connecting_to_a_folder_that_cannot_be_created_fails_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let url = DatabaseUrl::file(file.join("test.db"));
    let Err(error) = Store::connect(&url, PoolLimits::default()).await else {
        panic!("a file is not a folder")
    };
    assert!(error.is_unavailable(), "{error}");
}

#[tokio::test]
async fn connecting_to_an_unreachable_server_fails_within_the_limit() {
    let url = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
    let limits = PoolLimits { acquire_timeout: Duration::from_millis(200), ..PoolLimits::default() };
    let Err(error) = Store::connect(&url, limits).await else { panic!("nothing listens on port 1") };
    assert!(error.is_unavailable(), "{error}");
}
