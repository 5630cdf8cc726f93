//! `cargo xtask test`: everything there is to pass.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    chaos,
    cluster::{self, Cluster},
    collector, demo, e2e,
    run::{cargo, succeed},
    servers, simulate,
};

/// Whether the product is tested on a cluster as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// It is.
    Whole,
    /// It is not, and somebody said so.
    WithoutCluster,
}

/// What has passed and what has not.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    names: Vec<String>,
}

/// Runs format check, lints and every test, those that need servers or a cluster included. Ends with
/// one line `N passed, N failed`.
pub(crate) fn run(extent: Extent) -> Result<(), String> {
    let postgres = servers::postgres()?;
    let redis = servers::redis()?;
    servers::provide("curl", "curl")?;
    servers::provide("promtool", "prometheus")?;
    chaos::network()?;
    let collector = collector::build()?;
    let mut tally = Tally::default();
    tally.check("format", cargo(&["fmt", "--all", "--check"]));
    // Workspaces of their own.
    for manifest in ["fuzz/Cargo.toml", "tests/peers/Cargo.toml"] {
        tally.check(manifest, cargo(&["fmt", "--manifest-path", manifest, "--check"]));
    }
    tally.check(
        "lints",
        cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]),
    );
    // Whole-system tests run the program itself.
    tally.check("build", cargo(&["build", "--workspace", "--locked", "--quiet"]));
    let mut tests = cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--", "--include-ignored"]);
    tests.env("PHASE6_TEST_POSTGRES", &postgres.url).env("PHASE6_TEST_REDIS", &redis.url);
    tests.env("PHASE6_TEST_COLLECTOR", &collector);
    tally.tests("tests", tests)?;
    // Beside the benchmarks: both want an optimised build.
    tally.tests("the cache in many sequences", simulate::sequences(simulate::Seeds::default()))?;
    tally.check("benchmarks run", cargo(&["xtask", "bench", "--smoke"]));
    tally.check("instructions", cargo(&["xtask", "instructions"]));
    tally.check("any bytes", cargo(&["xtask", "fuzz"]));
    // The cluster brings its own.
    drop((postgres, redis));
    match extent {
        Extent::Whole => tally.cluster(),
        Extent::WithoutCluster => println!("not run: the tests on a cluster (--without-cluster)"),
    }
    for name in &tally.names {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    tally.verdict()
}

impl Tally {
    fn check(&mut self, name: &str, mut command: Command) {
        match timed(name, || succeed(&mut command)) {
            Ok(()) => self.passed += 1,
            Err(_) => self.fail(name),
        }
    }

    /// Runs the product on a cluster, which is gone afterwards unless it ran before.
    fn cluster(&mut self) {
        if let Err(why) = cluster::available() {
            println!("the tests on a cluster did not run: {why}; --without-cluster leaves them out");
            self.fail("a cluster to test on");
            return;
        }
        let cluster = Cluster::of_this_machine();
        let ran_before = cluster.runs();
        match timed("the demo", || demo::run().and_then(|()| demo::remove(&cluster))) {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("{error}");
                self.fail("the demo");
            }
        }
        let result =
            e2e::prepared(&cluster, &[]).and_then(|suite| self.tests("the product on a cluster", suite));
        if let Err(error) = result {
            println!("{error}");
            self.fail("the product on a cluster");
        }
        if !ran_before && let Err(error) = cluster.down() {
            println!("{error}");
            self.fail("nothing is left of the cluster");
        }
    }

    fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.names.push(name.to_owned());
    }

    /// Runs tests, shows what they say, and counts.
    fn tests(&mut self, name: &str, mut command: Command) -> Result<(), String> {
        let before = self.failed;
        let status = timed(name, || {
            let mut process = command
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("cannot start cargo: {error}"))?;
            let output = process.stdout.take().ok_or("cargo has no output")?;
            for line in BufReader::new(output).lines() {
                let line = line.map_err(|error| error.to_string())?;
                println!("{line}");
                self.read(&line);
            }
            process.wait().map_err(|error| error.to_string())
        })?;
        self.end(status.success(), before);
        Ok(())
    }

    /// The tests have ended; `before` them so many had failed.
    fn end(&mut self, success: bool, before: u32) {
        // A test program that does not compile, or dies, counts as a failure too.
        if !success && self.failed == before {
            self.fail("cargo test");
        }
    }

    fn verdict(&self) -> Result<(), String> {
        if self.failed == 0 { Ok(()) } else { Err("not everything passed".into()) }
    }

    fn read(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.names.push(name.to_owned());
        }
        // test result: ok. 3 passed; 0 failed; 0 ignored; ...
        if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |word: &str| {
                let (before, _) = counts.split_once(word)?;
                before.trim_end().rsplit(' ').next()?.parse::<u32>().ok()
            };
            self.passed += count("passed").unwrap_or(0);
            self.failed += count("failed").unwrap_or(0);
        }
    }
}

/// Says what begins, does it, and says how long it took: CI has an hour.
fn timed<T>(name: &str, part: impl FnOnce() -> T) -> T {
    println!("checking: {name}");
    let begun = Instant::now();
    let result = part();
    println!("took {} s: {name}", begun.elapsed().as_secs());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_from_what_the_tests_say() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::works ... ok",
            "test b::does_not ... FAILED",
            "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: ok. 30 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.names), (42, 1, vec!["b::does_not".to_owned()]));
    }

    /// The original's scripts ended well whatever had failed.
    #[test]
    fn any_failure_makes_the_whole_a_failure() {
        let verdict = |line: &str, success: bool| {
            let mut tally = Tally::default();
            tally.read(line);
            tally.end(success, 0);
            tally.verdict()
        };
        let well = "test result: ok. 3 passed; 0 failed; 0 ignored";
        let badly = "test result: FAILED. 2 passed; 1 failed; 0 ignored";
        assert_eq!(verdict(well, true), Ok(()));
        assert!(verdict(badly, false).is_err());
        assert!(verdict(badly, true).is_err(), "whatever cargo says");
        assert!(verdict(well, false).is_err(), "cargo failed without counting a failure");
        assert!(verdict("error: could not compile", false).is_err());
        let mut tally = Tally::default();
        tally.fail("lints");
        tally.end(true, tally.failed);
        assert!(tally.verdict().is_err(), "a check that came before");
    }
}
