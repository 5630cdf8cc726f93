//! Jobs of two replicas as two processes on one PostgreSQL.
//!
//! `PHASE6_CHAOS_ROUNDS` sets the number of holders that are killed, and has the gaps checked: `cargo xtask chaos`.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]
#![allow(clippy::print_stdout, reason = "measurements are read by people")]

use std::time::{Duration, Instant};

use phase6_store::{
    PoolLimits, Row, Store, sql,
    testing::{Kind, TestDatabase},
};
use phase6_tests::ServiceProcess;
use rustix::process::Signal;
use serde_json::Value;

/// A job that one replica runs.
const JOB: &str = "expired-reservations";
/// Holders that are killed by default.
const KILLS: u32 = 2;
/// Longest time from the kill of a holder until the job has run elsewhere.
const MAX_GAP: Duration = Duration::from_secs(10);
/// Expired reservations of each round, and the amount of each in micro-dollars.
const RESERVATIONS: i64 = 20;
const AMOUNT: i64 = 3;
/// Pause between two looks at a replica: a lease moves within seconds.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for a condition.
const LIMIT: Duration = Duration::from_mins(1);

async fn start_replica(database: &TestDatabase) -> ServiceProcess {
    let url = database.connect_string();
    ServiceProcess::with_environment("budget", &[], &[("PHASE6_DATABASE_URL", &url)]).await
}

/// Epoch of the lease of the job, if the replica holds it and has run the job.
async fn epoch(replica: &ServiceProcess) -> Option<i64> {
    let (_, report) = replica.get("/api/v1/system/observability").await?;
    let job: &Value = &report["jobs"][JOB];
    job["epoch"].as_i64().filter(|_| job["lastSuccess"].is_string())
}

/// Waits until a replica holds the lease, with a higher epoch than `before`, and has run the job.
async fn wait_for_holder(replica: &ServiceProcess, before: i64) -> i64 {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(epoch) = epoch(replica).await.filter(|epoch| *epoch > before) {
            return epoch;
        }
        if Instant::now() > deadline {
            let report = replica.get("/api/v1/system/observability").await;
            panic!("the replica does not get the lease: {report:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn a_suspended_replica_gives_its_jobs_to_another_one() {
    let database = TestDatabase::create(Kind::Postgres).await;
    let first = start_replica(&database).await;
    let before = wait_for_holder(&first, 0).await;
    let second = start_replica(&database).await;
    first.program.signal(Signal::STOP);
    wait_for_holder(&second, before).await;
    first.program.signal(Signal::CONT);
    let deadline = Instant::now() + LIMIT;
    while epoch(&first).await == Some(before) {
        assert!(Instant::now() < deadline, "the first replica does not notice that it lost the lease");
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(first.stop(), Some(0));
    assert_eq!(second.stop(), Some(0));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn the_jobs_of_a_killed_replica_continue_on_another_one() {
    let rounds = std::env::var("PHASE6_CHAOS_ROUNDS").ok().map(|rounds| rounds.parse::<u32>().unwrap());
    let database = TestDatabase::create(Kind::Postgres).await;
    let store = Store::connect(&database.url, PoolLimits::default()).await.unwrap();
    let mut holder = start_replica(&database).await;
    let mut epoch = wait_for_holder(&holder, 0).await;
    let kills = rounds.unwrap_or(KILLS);
    for kill in 0..kills {
        let next = start_replica(&database).await;
        expire_reservations(&store, kill).await;
        let killed = Instant::now();
        holder.program.signal(Signal::KILL);
        epoch = wait_for_holder(&next, epoch).await;
        let gap = killed.elapsed();
        println!("the job ran on another replica {:.1} s after the kill", gap.as_secs_f64());
        assert!(rounds.is_none() || gap <= MAX_GAP, "{gap:?}");
        holder = next;
    }
    let expected = i64::from(kills) * RESERVATIONS * AMOUNT;
    let deadline = Instant::now() + LIMIT;
    while charged(&store).await < expected {
        assert!(Instant::now() < deadline, "reservations are not charged");
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(charged(&store).await, expected, "each reservation is charged once");
    assert_eq!(holder.stop(), Some(0));
}

/// Adds reservations of a dead caller, which the job charges.
async fn expire_reservations(store: &Store, round: u32) {
    let mut tx = store.begin().await.unwrap();
    sql("INSERT INTO budget_days (day, used_micros, reserved_micros) VALUES ('2026-01-01', 0, $1)
         ON CONFLICT (day) DO UPDATE SET reserved_micros = budget_days.reserved_micros + excluded.reserved_micros")
    .bind(RESERVATIONS * AMOUNT)
    .run_in(&mut tx)
    .await
    .unwrap();
    for number in 0..RESERVATIONS {
        sql("INSERT INTO budget_reservations (id, tenant, day, provider, amount_micros, expires_ms)
             VALUES ($1, 'default', '2026-01-01', 'openai', $2, 1)")
        .bind(format!("{round}-{number}"))
        .bind(AMOUNT)
        .run_in(&mut tx)
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
}

async fn charged(store: &Store) -> i64 {
    let row = sql("SELECT used_micros FROM budget_days WHERE day = '2026-01-01'").first(store).await.unwrap();
    row.map_or(0, |row| row.get("used_micros"))
}
