//! Idempotency keys on SQLite and PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use phase6_idempotency::{
    ClaimOutcome, Fingerprint, IdempotencyKey, MIGRATIONS, Outcome, RETENTION, Request, StoreOutcome,
    StoredResponse, claim, delete_expired, find, store,
};
use phase6_identity::{Principal, Role};
use phase6_store::{
    PoolLimits, Row, Store, sql,
    testing::{Kind, TestDatabase},
};

phase6_store::on_both_databases!(
    a_repeated_request_gets_the_first_response,
    fifty_writers_with_one_key_have_one_effect,
    a_rolled_back_effect_leaves_no_key,
    keys_of_other_principals_and_routes_are_other_keys,
    a_response_expires_after_a_day,
    a_claim_is_exclusive_until_it_is_completed_abandoned_or_expired,
    expired_rows_are_deleted,
    a_key_that_is_used_again_during_the_clean_up_remains,
);

const LEASE: Duration = Duration::from_mins(2);

async fn connect(database: &TestDatabase) -> Store {
    let connected = Store::connect(&database.url, PoolLimits::default()).await.unwrap();
    connected.migrate("idempotency", &MIGRATIONS).await.unwrap();
    connected
}

async fn database(kind: Kind) -> (Store, TestDatabase) {
    let database = TestDatabase::create(kind).await;
    let connected = connect(&database).await;
    sql("CREATE TABLE effects (name TEXT NOT NULL)").run(&connected).await.unwrap();
    (connected, database)
}

fn request(key: &str, body: &str) -> Request {
    Request {
        principal: Principal {
            tenant: "acme".parse().unwrap(),
            subject: "ada".parse().unwrap(),
            role: Role::Member,
        },
        route: "POST /effects".into(),
        key: IdempotencyKey::parse(key).unwrap(),
        fingerprint: Fingerprint::of("/effects", body.as_bytes()),
    }
}

fn response(body: &str) -> StoredResponse {
    StoredResponse { status: 200, body: body.to_owned() }
}

/// Lets time pass: every row expires earlier.
async fn advance(connected: &Store, duration: Duration) {
    sql("UPDATE phase6_idempotency SET expires_ms = expires_ms - $1")
        .bind(duration.as_millis() as i64)
        .run(connected)
        .await
        .unwrap();
}

/// Performs the effect once. Returns the response to the request, and whether the effect happened now.
async fn perform(connected: &Store, request: &Request, name: &str) -> (Outcome, bool) {
    let mut tx = connected.begin().await.unwrap();
    sql("INSERT INTO effects (name) VALUES ($1)").bind(name.to_owned()).run_in(&mut tx).await.unwrap();
    if store(&mut tx, request, &response(name)).await.unwrap() == StoreOutcome::Stored {
        tx.commit().await.unwrap();
        return (Outcome::Completed(response(name)), true);
    }
    drop(tx);
    (find(connected, request).await.unwrap().unwrap(), false)
}

async fn effects(connected: &Store) -> i64 {
    sql("SELECT COUNT(*) AS effects FROM effects").first(connected).await.unwrap().unwrap().get("effects")
}

async fn a_repeated_request_gets_the_first_response(kind: Kind) {
    let (connected, _database) = database(kind).await;
    assert_eq!(find(&connected, &request("k", "a")).await.unwrap(), None);
    let first = Outcome::Completed(response("first"));
    assert_eq!(perform(&connected, &request("k", "a"), "first").await, (first.clone(), true));
    assert_eq!(perform(&connected, &request("k", "a"), "second").await, (first, false));
    assert_eq!(perform(&connected, &request("k", "b"), "third").await, (Outcome::OtherRequest, false));
    assert_eq!(effects(&connected).await, 1);
}

async fn fifty_writers_with_one_key_have_one_effect(kind: Kind) {
    let (connected, database) = database(kind).await;
    let replicas = [connected.clone(), connect(&database).await];
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..50_usize {
        let replica = replicas[number % 2].clone();
        writers.spawn(async move { perform(&replica, &request("k", "a"), &format!("{number}")).await });
    }
    let outcomes = writers.join_all().await;
    assert_eq!(outcomes.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert!(outcomes.iter().all(|(outcome, _)| *outcome == outcomes[0].0), "{outcomes:?}");
    assert_eq!(effects(&connected).await, 1);
}

async fn a_rolled_back_effect_leaves_no_key(kind: Kind) {
    let (connected, _database) = database(kind).await;
    let mut tx = connected.begin().await.unwrap();
    assert_eq!(store(&mut tx, &request("k", "a"), &response("lost")).await.unwrap(), StoreOutcome::Stored);
    drop(tx);
    assert!(perform(&connected, &request("k", "b"), "second").await.1, "with another body, too");
}

async fn keys_of_other_principals_and_routes_are_other_keys(kind: Kind) {
    let (connected, _database) = database(kind).await;
    let own = request("k", "a");
    let mut tenant = own.clone();
    tenant.principal.tenant = "other".parse().unwrap();
    let mut subject = own.clone();
    subject.principal.subject = "bob".parse().unwrap();
    let route = Request { route: "POST /others".into(), ..own.clone() };
    for (index, request) in [own, tenant, subject, route].iter().enumerate() {
        assert!(perform(&connected, request, &format!("{index}")).await.1, "{request:?}");
    }
}

async fn a_response_expires_after_a_day(kind: Kind) {
    let (connected, _database) = database(kind).await;
    perform(&connected, &request("k", "a"), "first").await;
    let known = async || find(&connected, &request("k", "a")).await.unwrap().is_some();
    advance(&connected, RETENTION.saturating_sub(Duration::from_mins(1))).await;
    assert!(known().await);
    advance(&connected, Duration::from_mins(1)).await;
    assert!(!known().await);
    let mut tx = connected.begin().await.unwrap();
    let stored = store(&mut tx, &request("k", "b"), &response("second")).await.unwrap();
    assert_eq!(stored, StoreOutcome::Stored, "the expired row is replaced");
}

async fn a_claim_is_exclusive_until_it_is_completed_abandoned_or_expired(kind: Kind) {
    let (connected, _database) = database(kind).await;
    let claim_now = async |body: &str| claim(&connected, request("k", body), LEASE).await.unwrap();
    let claimed = |outcome| match outcome {
        ClaimOutcome::Claimed(claim) => claim,
        ClaimOutcome::Used(outcome) => panic!("{outcome:?}"),
    };
    let used = |outcome| match outcome {
        ClaimOutcome::Used(outcome) => outcome,
        ClaimOutcome::Claimed(_) => panic!("claimed"),
    };
    let abandoned = claimed(claim_now("a").await);
    assert_eq!(used(claim_now("a").await), Outcome::InProgress);
    assert_eq!(used(claim_now("b").await), Outcome::OtherRequest);
    abandoned.abandon(&connected).await.unwrap();
    let dead = claimed(claim_now("a").await);
    advance(&connected, LEASE).await;
    let holder = claimed(claim_now("a").await);
    dead.complete(&connected, &response("too late")).await.unwrap();
    assert_eq!(used(claim_now("a").await), Outcome::InProgress);
    holder.complete(&connected, &response("done")).await.unwrap();
    assert_eq!(used(claim_now("a").await), Outcome::Completed(response("done")));
}

async fn expired_rows_are_deleted(kind: Kind) {
    let (connected, _database) = database(kind).await;
    for number in 0..1_200 {
        let mut tx = connected.begin().await.unwrap();
        store(&mut tx, &request(&format!("k{number}"), "a"), &response("")).await.unwrap();
        tx.commit().await.unwrap();
    }
    let rows = async || {
        let row = sql("SELECT COUNT(*) AS keys FROM phase6_idempotency").first(&connected).await.unwrap();
        row.unwrap().get::<i64, _>("keys")
    };
    delete_expired(&connected).await.unwrap();
    assert_eq!(rows().await, 1_200);
    advance(&connected, RETENTION).await;
    delete_expired(&connected).await.unwrap();
    assert_eq!(rows().await, 0);
}

async fn a_key_that_is_used_again_during_the_clean_up_remains(kind: Kind) {
    let (connected, database) = database(kind).await;
    perform(&connected, &request("k", "a"), "first").await;
    advance(&connected, RETENTION).await;
    let other = connect(&database).await;
    let mut tx = connected.begin().await.unwrap();
    let stored = store(&mut tx, &request("k", "a"), &response("second")).await.unwrap();
    assert_eq!(stored, StoreOutcome::Stored);
    let clean_up = tokio::spawn(async move { delete_expired(&other).await });
    if kind == Kind::Postgres {
        wait_for_lock(&connected).await;
    }
    tx.commit().await.unwrap();
    clean_up.await.unwrap().unwrap();
    let known = find(&connected, &request("k", "a")).await.unwrap();
    assert_eq!(known, Some(Outcome::Completed(response("second"))));
}

/// Waits until a statement on this database waits for a lock.
async fn wait_for_lock(connected: &Store) {
    let waiting = async || {
        let row = sql("SELECT COUNT(*) AS waiting FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'")
        .first(connected)
        .await
        .unwrap();
        row.is_some_and(|row| row.get::<i64, _>("waiting") > 0)
    };
    let wait = async {
        while !waiting().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the clean-up waits");
}
