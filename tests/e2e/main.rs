//! The product on a real cluster, as its users have it: `kubectl apply`, `helm install`, edit.
//!
//! `cargo xtask e2e` runs it; `KUBECONFIG` says where. Nothing here knows how the cluster was made. The
//! cases share one release, in the order in which they stand below, and each leaves it settled. With
//! words on the command line only cases whose names hold one of them run, and the release stays for the
//! next run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on panics")]

mod cases;
mod fleet;
mod gate;
mod kubernetes;

use std::{process::ExitCode, sync::Arc, time::Duration};

use fleet::Fleet;

/// Longest time for one case.
const PATIENCE: Duration = Duration::from_mins(15);

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = std::env::var_os("PHASE6_E2E").is_some();
    let cases = cases::all();
    if !wanted {
        println!(
            "\ntest result: ok. 0 passed; 0 failed; {} ignored (cargo xtask e2e runs them)\n",
            cases.len()
        );
        return ExitCode::SUCCESS;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let failed = runtime.block_on(async {
        let fleet = Arc::new(Fleet::install().await);
        let (mut passed, mut failed) = (0, 0);
        for (name, case) in cases {
            if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
                continue;
            }
            let begun = std::time::Instant::now();
            // A case that panics is a failure of that case only.
            let mut running = tokio::spawn(case(Arc::clone(&fleet)));
            let result = tokio::time::timeout(PATIENCE, &mut running).await;
            running.abort();
            let took = begun.elapsed().as_secs_f64();
            if let Ok(Ok(())) = result {
                passed += 1;
                println!("test {name} ... ok ({took:.1} s)");
            } else {
                failed += 1;
                fleet.explain().await;
                println!("test {name} ... FAILED");
            }
        }
        if filters.is_empty() {
            fleet.remove().await;
        }
        println!(
            "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored\n",
            if failed == 0 { "ok" } else { "FAILED" }
        );
        failed
    });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
