//! `cargo xtask test`: every check and every test, in one run that ends with the table of parts and the line
//! `N passed, N failed`, also if a part cannot run.
//!
//! Long forms run by hand: `prove` and `chaos` (more rounds), `simulate` (more seeds), `fuzz` (more time, with
//! instrumented libraries), `bench` (measurements) and `mutants`.

mod changed;
mod executables;
pub(crate) mod report;

use std::{path::PathBuf, process::Command, time::Duration};

use self::{
    executables::Executable,
    report::{Counts, Report},
};
use crate::{
    background::{self, Background},
    bench, chaos,
    cluster::{self, Cluster},
    demo, e2e, fuzz, image, instructions,
    run::cargo,
    servers, simulate,
};

/// Time for each target of the fuzzer.
const FUZZ: Duration = Duration::from_secs(20);
/// Sequences of requests that the cache is compared with its oracle for.
const SEQUENCES: u64 = 100_000;

/// Scope of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    Whole,
    /// Everything that needs no cluster.
    WithoutCluster,
}

/// Runs every check and every test of the scope.
pub(crate) fn run(scope: Scope) -> Result<(), String> {
    let mut report = Report::default();
    let collector = background::collector();
    let tools = match scope {
        Scope::Whole => {
            report.step("requirements of a cluster", cluster::available).map(|()| background::cluster_tools())
        }
        Scope::WithoutCluster => None,
    };
    report.step("tools", provide_tools);
    report.check("format", cargo(&["fmt", "--all", "--check"]));
    // `tests/peers` is a separate workspace.
    report.check("format of peers", cargo(&["fmt", "--manifest-path", "tests/peers/Cargo.toml", "--check"]));
    report.check("lints", lints());
    report.check("default features", default_features());
    tests(&mut report, |_| true, collector);
    report.check("documentation tests", documentation_tests());
    report.check("cache sequences", simulate::sequences(SEQUENCES));
    report.step("benchmarks run", || bench::run(bench::Effort::Smoke));
    report.step("release build", image::build);
    report.check("gateway of the release build", release_gateway());
    report.step("instructions", || instructions::run(instructions::Purpose::Compare));
    report.step("fuzzing", || fuzz::run_quick(FUZZ));
    if let Some(tools) = tools {
        cluster(&mut report, tools);
    }
    println!("{report}");
    report.result()
}

/// Runs the checks and tests of the packages that the changes since `revision` can break. For the inner loop.
pub(crate) fn run_changed(revision: &str) -> Result<(), String> {
    let packages = changed::packages(revision)?;
    if packages.is_empty() {
        println!("nothing has changed since {revision}");
        return Ok(());
    }
    println!("affected: {}", packages.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    let mut report = Report::default();
    let collector = background::collector();
    report.step("tools", provide_tools);
    report.check("format", cargo(&["fmt", "--all", "--check"]));
    // Of the whole workspace, because a selection of packages may select other features of libraries, which
    // would be compiled again. Only what has changed is checked and built.
    report.check("lints", lints());
    if packages.contains("phase6-cli") {
        report.check("default features", default_features());
    }
    tests(&mut report, |executable| changed::can_break(&packages, executable), collector);
    report.check("documentation tests", documentation_tests());
    println!("{report}");
    report.result()
}

/// Installs the programs that tests start.
fn provide_tools() -> Result<(), String> {
    servers::provide("curl", "curl")?;
    servers::provide("promtool", "prometheus")?;
    chaos::provide_tools()
}

fn lints() -> Command {
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"])
}

/// Returns the check of the build of `cargo run -- up`, which lacks the cluster client.
fn default_features() -> Command {
    cargo(&["check", "--locked", "--quiet", "-p", "phase6-cli"])
}

fn documentation_tests() -> Command {
    cargo(&["test", "--workspace", "--doc", "--locked", "--quiet"])
}

/// Returns the command that runs the tests of the gateway on the program of the release build. The compiler may
/// place constants elsewhere than in a debug build, so what passes there can fail here.
fn release_gateway() -> Command {
    let mut command = cargo(&["test", "--locked", "--quiet", "--workspace", "--test", "gateway"]);
    command.env("PHASE6_TEST_PROGRAM", image::built("phase6"));
    command
}

/// Builds the workspace, and runs the test programs that `selected` accepts, with PostgreSQL, Redis and a
/// collector.
fn tests(report: &mut Report, selected: impl Fn(&Executable) -> bool, collector: Background<PathBuf>) {
    let Some(mut executables) = report.step("build", executables::build) else { return };
    executables.retain(selected);
    let Some(collector) = report.step("wait for the collector", || collector.join()) else { return };
    let servers = report.step("servers", || Ok((servers::postgres()?, servers::redis()?)));
    let Some((postgres, redis)) = servers else { return };
    report.timed("tests", |report| {
        executables::run(report, executables, |command| {
            command.env("PHASE6_TEST_POSTGRES", &postgres.url).env("PHASE6_TEST_REDIS", &redis.url);
            command.env("PHASE6_TEST_COLLECTOR", &collector).env("TMPDIR", servers::temporary_folder());
        });
    });
}

/// Runs the product on a cluster, which is removed afterwards unless it was running before.
fn cluster(report: &mut Report, tools: Background<()>) {
    let Some(()) = report.step("wait for Kubernetes", || tools.join()) else { return };
    let cluster = Cluster::of_this_machine();
    let was_running = cluster.is_running();
    // The suite begins with the release that the demo leaves.
    if report.step("demo", demo::run).is_some() {
        let suite = report.timed("product on a cluster", |report| {
            let output = e2e::run_all(&cluster)?;
            report.add(Counts::read(&output.text, output.success, "the suite"));
            Ok::<_, String>(())
        });
        if let Err(error) = suite {
            report.step("product on a cluster", || Err::<(), _>(error));
        }
    }
    if !was_running {
        report.step("removal of the cluster", || cluster.down());
    }
}
