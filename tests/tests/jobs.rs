//! Jobs of two replicas as two processes on one PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::{Duration, Instant};

use phase6_store::testing::{Kind, TestDatabase};
use phase6_tests::{ServiceProcess, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// A job that one replica runs.
const JOB: &str = "expired-reservations";
/// Longest time from the end of a holder to the first run of the next one.
const LONGEST_GAP: Duration = Duration::from_secs(10);
/// Holders that are killed. `cargo xtask chaos` kills more.
const KILLS: u32 = 2;

async fn start_replica(database: &TestDatabase) -> ServiceProcess {
    let url = database.connect_string();
    ServiceProcess::with_environment("budget", &[], &[("PHASE6_DATABASE_URL", &url)]).await
}

/// State of the job on a replica; null if the replica does not respond.
async fn job(replica: &ServiceProcess) -> Value {
    let report = replica.get("/api/v1/system/observability").await;
    report.map_or(Value::Null, |(_, report)| report["jobs"][JOB].clone())
}

/// Waits until a replica holds the lease, and has run the job. Returns the epoch.
async fn wait_for_holder(replica: &ServiceProcess) -> i64 {
    wait_until("the replica holds the lease", || async {
        let job = job(replica).await;
        job["epoch"].is_i64() && job["lastSuccess"].is_string()
    })
    .await;
    job(replica).await["epoch"].as_i64().unwrap()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn a_suspended_replica_gives_its_jobs_to_another_and_does_not_take_them_back() {
    let database = TestDatabase::create(Kind::Postgres).await;
    let first = start_replica(&database).await;
    let epoch = wait_for_holder(&first).await;
    let second = start_replica(&database).await;
    assert!(job(&second).await["epoch"].is_null());
    first.program.signal(Signal::STOP);
    assert_eq!(wait_for_holder(&second).await, epoch + 1);
    first.program.signal(Signal::CONT);
    wait_until("the first replica knows that it lost the lease", || async {
        job(&first).await["epoch"].is_null()
    })
    .await;
    assert_eq!(job(&second).await["epoch"], epoch + 1);
    assert_eq!(first.stop(), Some(0));
    assert_eq!(second.stop(), Some(0));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn the_jobs_of_a_killed_replica_continue_on_another_within_ten_seconds() {
    let database = TestDatabase::create(Kind::Postgres).await;
    let mut holder = start_replica(&database).await;
    let mut epoch = wait_for_holder(&holder).await;
    for _ in 0..KILLS {
        let next = start_replica(&database).await;
        let killed = Instant::now();
        holder.program.signal(Signal::KILL);
        let next_epoch = wait_for_holder(&next).await;
        let gap = killed.elapsed();
        assert!(gap < LONGEST_GAP, "no replica ran the job for {gap:?}");
        assert_eq!(next_epoch, epoch + 1);
        (holder, epoch) = (next, next_epoch);
    }
    assert_eq!(holder.stop(), Some(0));
}
