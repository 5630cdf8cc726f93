//! The product on a real cluster, used as its users do: `kubectl apply`, `helm install`, `kubectl edit`.
//!
//! `cargo xtask e2e` runs it; `KUBECONFIG` names the cluster. Nothing here depends on how the cluster was made.
//! Cases run in lanes: each lane is a namespace with its own release and operator, and its cases run
//! in order and leave the release settled. Lanes run at the same time; cases that act on the whole cluster
//! run alone, after all lanes. With words on the command line only cases whose names contain one of them run,
//! and the releases stay for the next run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed test panics")]

mod api_proxy;
mod cases;
mod fleet;
mod kubernetes;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use cases::{Case, Lane};
use fleet::Fleet;
use futures_util::future::join_all;

/// Longest time for one case.
const CASE_LIMIT: Duration = Duration::from_mins(15);
/// Longest time to install the release of a lane.
const INSTALL_LIMIT: Duration = Duration::from_mins(5);

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let lanes = cases::lanes();
    if std::env::var_os("PHASE6_E2E").is_none() {
        let count = lanes.iter().map(|lane| lane.cases.len()).sum::<usize>() + cases::cluster_wide().len();
        println!("\ntest result: ok. 0 passed; 0 failed; {count} ignored (run them by cargo xtask e2e)\n");
        return ExitCode::SUCCESS;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let counts = tokio::runtime::Runtime::new().unwrap().block_on(run(lanes, &filters));
    let verdict = if counts.failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {} failed; 0 ignored\n", counts.passed, counts.failed);
    if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(lanes: Vec<Lane>, filters: &[String]) -> Counts {
    let is_selected = |case: &Case| filters.is_empty() || filters.iter().any(|word| case.name.contains(word));
    let mut counts = Counts::default();
    let mut add = |more: Counts| {
        counts.passed += more.passed;
        counts.failed += more.failed;
    };
    fleet::apply_definition().await;
    let lanes = lanes.into_iter().map(|mut lane| {
        lane.cases.retain(is_selected);
        lane
    });
    let lanes: Vec<Lane> = lanes.filter(|lane| !lane.cases.is_empty()).collect();
    if !lanes.is_empty() {
        // An operator of every namespace would act on the resources of the lanes too.
        fleet::limit_demo_operator().await;
    }
    let lanes = lanes.into_iter().map(|lane| run_lane(lane, filters.is_empty()));
    join_all(lanes).await.into_iter().for_each(&mut add);
    let cluster_wide: Vec<Case> = cases::cluster_wide().into_iter().filter(is_selected).collect();
    if !cluster_wide.is_empty() {
        // For the same reason; an earlier run with words may have left them.
        fleet::remove_lanes().await;
        let fleet = Arc::new(Fleet::cluster_wide().await);
        add(run_cases(&fleet, cluster_wide).await);
        if filters.is_empty() {
            fleet.remove().await;
            fleet::remove_definition().await;
        }
    }
    counts
}

/// Installs the release of a lane and runs its cases.
async fn run_lane(lane: Lane, remove: bool) -> Counts {
    let fleet = Arc::new(Fleet::of_lane(&lane).await);
    let counts = run_cases(&fleet, lane.cases).await;
    // The cluster-wide cases use the release of the demo.
    if remove && !fleet.is_demo() {
        fleet.remove().await;
    }
    counts
}

/// Brings the release to its values, and runs cases in order.
async fn run_cases(fleet: &Arc<Fleet>, cases: Vec<Case>) -> Counts {
    let mut counts = Counts::default();
    let start = Instant::now();
    let installing = Arc::clone(fleet);
    let installing = tokio::spawn(async move { installing.install().await });
    if !matches!(tokio::time::timeout(INSTALL_LIMIT, installing).await, Ok(Ok(()))) {
        fleet.explain().await;
        for case in cases {
            counts.failed += 1;
            println!("test {} ... FAILED", case.name);
        }
        return counts;
    }
    println!("release in {} is ready after {:.1} s", fleet.namespace, start.elapsed().as_secs_f64());
    for case in cases {
        let start = Instant::now();
        // A panic fails this case only.
        let mut running = tokio::spawn((case.run)(Arc::clone(fleet)));
        let result = tokio::time::timeout(CASE_LIMIT, &mut running).await;
        running.abort();
        if let Ok(Ok(())) = result {
            counts.passed += 1;
            println!("test {} ... ok ({:.1} s)", case.name, start.elapsed().as_secs_f64());
        } else {
            counts.failed += 1;
            fleet.explain().await;
            println!("test {} ... FAILED", case.name);
        }
    }
    counts
}
