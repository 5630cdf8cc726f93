//! Jobs of several replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use phase6_jobs::{Job, JobError, Jobs, Lease, LeaseTiming, Outcome, Replicas, Run, RunNowError};
use phase6_store::{Row, Store, on_both_databases, sql, testing::Kind};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Database, LONG, connect};

/// Longest wait for a condition.
const LIMIT: Duration = Duration::from_secs(20);
/// Times of leases that move within a second.
const QUICK: LeaseTiming = LeaseTiming {
    lifetime: Duration::from_millis(600),
    renewal: Duration::from_millis(100),
    attempt: Duration::from_millis(50),
};

/// The jobs of one replica.
struct Replica {
    jobs: Jobs,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Replica {
    /// Starts a replica with its own connections, as a process has.
    async fn start(database: &Database) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let store = Some(connect(&database.database).await);
        let jobs = Jobs::with_timing("tests", store, tasks.clone(), stop.clone(), QUICK);
        Self { jobs, stop, tasks }
    }

    fn holds_lease(&self) -> bool {
        self.jobs.snapshots()[0].epoch.is_some()
    }

    fn runs(&self) -> u64 {
        self.jobs.snapshots()[0].succeeded
    }

    async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(LIMIT, self.tasks.wait()).await.expect("the jobs stop");
    }
}

async fn wait_until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the condition becomes true");
}

/// Records an effect under the guard of the run.
async fn record(store: &Store, run: &Run, id: &str, holder: i64) -> Result<(), JobError> {
    let mut tx = store.begin().await?;
    run.guard(&mut tx).await?;
    sql("INSERT INTO effects (id, holder) VALUES ($1, $2)")
        .bind(id.to_owned())
        .bind(holder)
        .run_in(&mut tx)
        .await?;
    Ok(tx.commit().await?)
}

on_both_databases! {
    a_singleton_runs_on_one_replica,
    another_replica_takes_over_when_the_holder_stops,
    another_replica_takes_over_when_the_holder_vanishes,
    a_suspended_holder_changes_nothing_when_it_continues,
    every_effect_of_many_holders_belongs_to_one_term,
    a_failing_or_panicking_job_runs_again_and_shows_its_error,
    a_run_beyond_its_limit_is_abandoned,
}

fn counting(runs: &Arc<AtomicU64>) -> Job {
    let runs = Arc::clone(runs);
    Job::new("count", Duration::from_millis(20), move |_| {
        let runs = Arc::clone(&runs);
        async move {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
}

async fn a_singleton_runs_on_one_replica(kind: Kind) {
    let database = Database::create(kind).await;
    let (first, second) = (Replica::start(&database).await, Replica::start(&database).await);
    let runs = Arc::new(AtomicU64::new(0));
    first.jobs.singleton(counting(&runs));
    wait_until(|| first.runs() > 0).await;
    second.jobs.singleton(counting(&runs));
    second.jobs.every_replica(Job::new("each", Duration::from_millis(20), |_| async { Ok(()) }));
    wait_until(|| first.runs() > 10 && second.jobs.snapshots()[1].succeeded > 10).await;
    let [one, each] = &second.jobs.snapshots()[..] else { panic!("two jobs") };
    assert_eq!((one.replicas, one.succeeded, one.epoch), (Replicas::One, 0, None));
    assert_eq!((each.replicas, each.epoch), (Replicas::Every, None));
    assert_eq!(second.jobs.run_now("count").await, Err(RunNowError::Standby));
    assert_eq!(second.jobs.run_now("nosuch").await, Err(RunNowError::Unknown));
    assert_eq!(first.jobs.run_now("count").await, Ok(Outcome::Succeeded));
    first.shut_down().await;
    assert_eq!(first.jobs.run_now("count").await, Err(RunNowError::Stopped));
    second.shut_down().await;
}

async fn another_replica_takes_over_when_the_holder_stops(kind: Kind) {
    let database = Database::create(kind).await;
    let runs = Arc::new(AtomicU64::new(0));
    let mut holder = Replica::start(&database).await;
    holder.jobs.singleton(counting(&runs));
    for _ in 0..5 {
        wait_until(|| holder.runs() > 0).await;
        let next = Replica::start(&database).await;
        next.jobs.singleton(counting(&runs));
        holder.shut_down().await;
        wait_until(|| next.holds_lease()).await;
        assert!(!holder.holds_lease());
        holder = next;
    }
    holder.shut_down().await;
}

async fn another_replica_takes_over_when_the_holder_vanishes(kind: Kind) {
    let database = Database::create(kind).await;
    let vanished = Lease::new(database.store.clone(), "tests/count", "vanished", QUICK.lifetime);
    assert_eq!(vanished.try_acquire().await.unwrap(), Some(1));
    let runs = Arc::new(AtomicU64::new(0));
    let replica = Replica::start(&database).await;
    replica.jobs.singleton(counting(&runs));
    wait_until(|| replica.runs() > 0).await;
    assert_eq!(replica.jobs.snapshots()[0].epoch, Some(2));
    replica.shut_down().await;
}

async fn a_suspended_holder_changes_nothing_when_it_continues(kind: Kind) {
    let database = Database::create(kind).await;
    let (first, second) = (Replica::start(&database).await, Replica::start(&database).await);
    let suspended = Arc::new(AtomicU64::new(0));
    let (store, started) = (connect(&database.database).await, Arc::clone(&suspended));
    first.jobs.singleton(Job::new("write", Duration::from_millis(20), move |run| {
        let (store, started) = (store.clone(), Arc::clone(&started));
        async move {
            if started.fetch_add(1, Ordering::Relaxed) == 0 {
                // Suspends the task with its renewals, as SIGSTOP does.
                tokio::task::block_in_place(|| std::thread::sleep(QUICK.lifetime * 3));
                return record(&store, &run, "from the suspended run", 1).await;
            }
            Ok(())
        }
    }));
    wait_until(|| suspended.load(Ordering::Relaxed) == 1).await;
    let store = connect(&database.database).await;
    second.jobs.singleton(Job::new("write", LONG, move |run| {
        let store = store.clone();
        async move { record(&store, &run, "from the next holder", 2).await }
    }));
    wait_until(|| second.runs() == 1).await;
    wait_until(|| first.jobs.snapshots()[0].lease_lost == 1).await;
    assert_eq!(database.effects().await, [2]);
    first.shut_down().await;
    second.shut_down().await;
}

/// Replicas stall at random, before either of two transactions of a run.
async fn every_effect_of_many_holders_belongs_to_one_term(kind: Kind) {
    let database = Database::create(kind).await;
    sql("CREATE TABLE log (position BIGINT PRIMARY KEY, holder BIGINT NOT NULL)")
        .run(&database.store)
        .await
        .unwrap();
    let append = |store: Store, holder: i64| {
        Job::new("append", Duration::from_millis(1), move |run: Run| {
            let store = store.clone();
            async move {
                for _ in 0..2 {
                    if rand::random_ratio(1, 20) {
                        tokio::task::block_in_place(|| std::thread::sleep(QUICK.lifetime * 2));
                    }
                    let mut tx = store.begin().await?;
                    run.guard(&mut tx).await?;
                    sql("INSERT INTO log SELECT COALESCE(MAX(position), 0) + 1, $1 FROM log")
                        .bind(holder)
                        .run_in(&mut tx)
                        .await?;
                    tx.commit().await?;
                }
                Ok(())
            }
        })
    };
    let mut replicas = Vec::new();
    for holder in 0..4 {
        let replica = Replica::start(&database).await;
        replica.jobs.singleton(append(connect(&database.database).await, holder));
        replicas.push(replica);
    }
    let terms = || replicas.iter().map(|replica| replica.jobs.snapshots()[0].lease_lost).sum::<u64>();
    wait_until(|| terms() >= 5).await;
    for replica in &replicas {
        replica.shut_down().await;
    }
    let rows = sql("SELECT holder FROM log ORDER BY position").all(&database.store).await.unwrap();
    let holders: Vec<i64> = rows.iter().map(|row| row.get("holder")).collect();
    let changes = holders.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let last = sql("SELECT epoch FROM phase6_leases").first(&database.store).await.unwrap().unwrap();
    let epochs = last.get::<i64, _>("epoch");
    assert!(epochs > 2, "the lease moved");
    assert!((changes as i64) < epochs, "{changes} changes of the holder in the log, {epochs} terms");
}

async fn a_failing_or_panicking_job_runs_again_and_shows_its_error(kind: Kind) {
    let database = Database::create(kind).await;
    let replica = Replica::start(&database).await;
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    replica.jobs.every_replica(Job::new("fail", Duration::from_millis(10), move |_| {
        let run = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            match run {
                0 => Err("the first error".into()),
                1 => panic!("as a bug does"),
                _ => Ok(()),
            }
        }
    }));
    wait_until(|| replica.jobs.snapshots()[0].failed == 1).await;
    let failed = &replica.jobs.snapshots()[0];
    assert_eq!(
        (failed.last_outcome, failed.last_error.as_deref()),
        (Some(Outcome::Failed), Some("the first error"))
    );
    wait_until(|| replica.runs() > 0).await;
    let recovered = &replica.jobs.snapshots()[0];
    assert_eq!((recovered.failed, recovered.last_error.as_deref()), (2, None));
    wait_until(|| replica.jobs.snapshots()[0].consecutive_failures == 0).await;
    replica.shut_down().await;
}

async fn a_run_beyond_its_limit_is_abandoned(kind: Kind) {
    let database = Database::create(kind).await;
    let replica = Replica::start(&database).await;
    let never = Job::new("never", LONG, |_| std::future::pending::<Result<(), JobError>>());
    replica.jobs.singleton(never.with_limit(Duration::from_millis(50)));
    wait_until(|| replica.jobs.snapshots()[0].failed > 0).await;
    let error = replica.jobs.snapshots()[0].last_error.clone().unwrap();
    assert!(error.starts_with("the run took longer than 0.05 s"), "{error}");
    replica.shut_down().await;
}
