//! One suite, both databases: what SQLite promises, PostgreSQL promises, word for word.
//!
//! The PostgreSQL half needs a server: `cargo xtask test` starts one and sets
//! `PHASE6_TEST_POSTGRES`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use phase6_store::{
    DatabaseUrl, Migration, PoolLimits, Row, Store, StoreError, on_both_databases, sql,
    testing::{Fresh, Kind, fresh},
};

const MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, name: "things", sql: include_str!("migrations/0001_things.sql") }];

/// A migrated database of its own for one test, and what keeps it alive.
struct Made {
    store: Store,
    fresh: Fresh,
}

async fn made(kind: Kind, limits: PoolLimits) -> Made {
    let fresh = fresh(kind).await;
    let store = Store::connect(&fresh.url, limits).await.unwrap();
    store.migrate("things", &MIGRATIONS).await.unwrap();
    Made { store, fresh }
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

async fn values_come_back_as_they_were(kind: Kind) {
    let Made { store, .. } = &made(kind, PoolLimits::default()).await;
    insert(store, "a", i64::MAX).await.unwrap();
    let row = sql("SELECT amount, share, note, id FROM things").first(store).await.unwrap().unwrap();
    assert_eq!(row.get::<i64, _>(0), i64::MAX);
    assert!((row.get::<f64, _>(1) - 0.5).abs() < f64::EPSILON);
    assert_eq!(row.get::<Option<String>, _>(2), None);
    assert_eq!(row.get::<String, _>(3), "a");
}

async fn a_second_record_of_one_identity_is_a_conflict(kind: Kind) {
    let Made { store, .. } = &made(kind, PoolLimits::default()).await;
    insert(store, "a", 1).await.unwrap();
    assert!(matches!(insert(store, "a", 2).await, Err(StoreError::Conflict(_))));
    assert_eq!(amount(store, "a").await, Some(1));
}

async fn migrating_twice_changes_nothing_and_owners_do_not_meet(kind: Kind) {
    let Made { store, .. } = &made(kind, PoolLimits::default()).await;
    insert(store, "a", 1).await.unwrap();
    store.migrate("things", &MIGRATIONS).await.unwrap();
    assert_eq!(amount(store, "a").await, Some(1));
    let second = store.migrate("others", &MIGRATIONS).await;
    assert!(matches!(second, Err(StoreError::Migration(_))), "its table exists, its list is its own");
}

async fn a_transaction_is_all_or_nothing(kind: Kind) {
    let Made { store, .. } = &made(kind, PoolLimits::default()).await;
    let mut tx = store.begin().await.unwrap();
    sql("INSERT INTO things (id, amount, share) VALUES ('t', 1, 0)").run_in(&mut tx).await.unwrap();
    assert_eq!(amount(store, "t").await, None, "not seen outside");
    drop(tx);
    assert_eq!(amount(store, "t").await, None, "rolled back");
    let mut tx = store.begin().await.unwrap();
    sql("INSERT INTO things (id, amount, share) VALUES ('t', 1, 0)").run_in(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(amount(store, "t").await, Some(1));
}

async fn a_conditional_update_never_passes_its_bound(kind: Kind) {
    let Made { store, .. } = &made(kind, PoolLimits::default()).await;
    insert(store, "a", 0).await.unwrap();
    let tries: Vec<_> = (0..50)
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
    for one in tries {
        granted += one.await.unwrap();
    }
    assert_eq!((granted, amount(store, "a").await), (33, Some(99)));
}

/// The original opened ten connections with a maximum of three.
async fn the_pool_never_exceeds_its_maximum(kind: Kind) {
    let limits = PoolLimits { max_connections: 3, ..PoolLimits::default() };
    let Made { store, .. } = &made(kind, limits).await;
    let reads: Vec<_> = (0..30)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    sql("SELECT COUNT(*) FROM things").first(&store).await.unwrap();
                    let shown = store.snapshot();
                    assert!(shown.pool_size <= shown.max_connections, "{shown:?}");
                    assert!(shown.utilization <= 1.0);
                }
            })
        })
        .collect();
    for read in reads {
        read.await.unwrap();
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}

async fn the_pool_shows_who_uses_it(kind: Kind) {
    let limits = PoolLimits { max_connections: 4, ..PoolLimits::default() };
    let Made { store, .. } = &made(kind, limits).await;
    // SQLite has one more, for the writer.
    let max = if kind == Kind::Sqlite { 5 } else { 4 };
    until("nobody uses it", || store.snapshot().active_count == 0).await;
    let idle = store.snapshot();
    assert!(idle.pool_size >= 1 && idle.available_connections == idle.pool_size, "{idle:?}");
    assert_eq!((idle.active_count, idle.max_connections), (0, max));
    let tx = store.begin().await.unwrap();
    let busy = store.snapshot();
    assert_eq!((busy.active_count, busy.utilization), (1, 1.0 / f64::from(max)));
    drop(tx);
    until("nobody uses it any more", || store.snapshot().active_count == 0).await;
    assert!(store.snapshot().utilization.abs() < f64::EPSILON);
}

async fn a_connection_is_released_by_a_caller_that_gives_up(kind: Kind) {
    let limits = PoolLimits { max_connections: 1, ..PoolLimits::default() };
    let Made { store, .. } = &made(kind, limits).await;
    for _ in 0..20 {
        let read = sql("SELECT COUNT(*) FROM things").first(store);
        let _ = tokio::time::timeout(Duration::from_micros(50), read).await;
    }
    store.ping().await.unwrap();
}

/// In the original, those who waited at the drain were forgotten until their own time-out.
async fn closing_answers_those_who_wait(kind: Kind) {
    let limits =
        PoolLimits { max_connections: 1, acquire_timeout: Duration::from_secs(8), ..PoolLimits::default() };
    let Made { store, .. } = &made(kind, limits).await;
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
    let told = tokio::time::timeout(Duration::from_secs(4), waiting).await.expect("told at once").unwrap();
    assert!(told.unwrap_err().is_unavailable());
    drop(held);
    closing.await.unwrap();
    assert!(store.ping().await.unwrap_err().is_unavailable());
}

async fn no_free_connection_is_told_within_the_limit(kind: Kind) {
    let limits = PoolLimits {
        max_connections: 1,
        acquire_timeout: Duration::from_millis(50),
        ..PoolLimits::default()
    };
    let Made { store, .. } = &made(kind, limits).await;
    let _held = store.begin().await.unwrap();
    let Err(error) = store.begin().await else { panic!("there is only one") };
    assert!(error.is_unavailable(), "{error}");
}

async fn slow_statements_are_remembered_without_values_and_with_a_hint(kind: Kind) {
    let limits = PoolLimits { slow_statement: Duration::ZERO, ..PoolLimits::default() };
    let Made { store, .. } = &made(kind, limits).await;
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
        let found =
            slow.iter().find(|slow| slow.statement == "select id from things where note = ? and amount > ?");
        if let Some(hint) = found.and_then(|slow| slow.hint.as_deref()) {
            assert_eq!(hint, "reads all of things; an index on (note, amount) would help");
            let insert = slow.iter().find(|slow| slow.statement.starts_with("insert into things")).unwrap();
            assert_eq!((insert.count, insert.hint.as_deref()), (5, None));
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no hint: {slow:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn what_was_committed_is_there_after_reconnecting(kind: Kind) {
    let made = made(kind, PoolLimits::default()).await;
    insert(&made.store, "a", 5).await.unwrap();
    made.store.close().await;
    let again = Store::connect(&made.fresh.url, PoolLimits::default()).await.unwrap();
    assert_eq!(amount(&again, "a").await, Some(5));
}

/// In the original, tests shared a folder and passed or failed by what an earlier run had left.
async fn two_databases_made_for_tests_do_not_see_each_other_s_records(kind: Kind) {
    let (one, other) = (made(kind, PoolLimits::default()).await, made(kind, PoolLimits::default()).await);
    insert(&one.store, "a", 1).await.unwrap();
    assert_eq!(amount(&other.store, "a").await, None);
    insert(&other.store, "a", 2).await.expect("no conflict");
    assert_eq!((amount(&one.store, "a").await, amount(&other.store, "a").await), (Some(1), Some(2)));
}

on_both_databases! {
    values_come_back_as_they_were,
    a_second_record_of_one_identity_is_a_conflict,
    migrating_twice_changes_nothing_and_owners_do_not_meet,
    a_transaction_is_all_or_nothing,
    a_conditional_update_never_passes_its_bound,
    the_pool_never_exceeds_its_maximum,
    the_pool_shows_who_uses_it,
    a_connection_is_released_by_a_caller_that_gives_up,
    closing_answers_those_who_wait,
    no_free_connection_is_told_within_the_limit,
    slow_statements_are_remembered_without_values_and_with_a_hint,
    what_was_committed_is_there_after_reconnecting,
    two_databases_made_for_tests_do_not_see_each_other_s_records,
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let url = DatabaseUrl::file(file.join("test.db"));
    let Err(error) = Store::connect(&url, PoolLimits::default()).await else { panic!("a file is no folder") };
    assert!(error.is_unavailable(), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_within_the_limit() {
    let url = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
    let limits = PoolLimits { acquire_timeout: Duration::from_millis(200), ..PoolLimits::default() };
    let Err(error) = Store::connect(&url, limits).await else { panic!("nobody listens on port 1") };
    assert!(error.is_unavailable(), "{error}");
}
