//! Jobs of two replicas as two processes on one PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]
#![allow(clippy::print_stdout, reason = "measurements are read by people")]

use std::time::{Duration, Instant};

use phase6_store::testing::{Kind, TestDatabase};
use phase6_tests::ServiceProcess;
use rustix::process::Signal;
use serde_json::Value;

/// A job that one replica runs.
const JOB: &str = "expired-reservations";
/// Holders that are killed.
const KILLS: u32 = 2;
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
    let database = TestDatabase::create(Kind::Postgres).await;
    let mut holder = start_replica(&database).await;
    let mut epoch = wait_for_holder(&holder, 0).await;
    for _ in 0..KILLS {
        let next = start_replica(&database).await;
        let killed = Instant::now();
        holder.program.signal(Signal::KILL);
        epoch = wait_for_holder(&next, epoch).await;
        println!("the job ran on another replica {:.1} s after the kill", killed.elapsed().as_secs_f64());
        holder = next;
    }
    assert_eq!(holder.stop(), Some(0));
}
