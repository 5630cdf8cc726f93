//! `cargo xtask mutants`: mutation tests of the cores. A mutant that no test detects shows that a test is
//! missing.
//!
//! cargo-mutants changes a copy of the sources in one place at a time; `.cargo/mutants.toml` lists the files of
//! the cores. All of them take long, so this is not part of `cargo xtask test`.

use std::fmt;

use serde_json::Value;

use crate::{
    run::{cargo, root, succeed},
    servers,
};

/// Version of cargo-mutants that is installed.
const VERSION: &str = "27.1.0";
/// Time limit for the tests of a mutant, which may never end: a multiple of their usual time, and a minimum in
/// seconds.
const BOUNDS: [&str; 4] = ["--timeout-multiplier", "3", "--minimum-test-timeout", "30"];
/// Percentage of mutants that the tests must detect.
const GOAL: f64 = 90.0;

/// Tests the mutants of all cores, or those of some files.
pub(crate) fn run(files: &[&str]) -> Result<(), String> {
    if let Some(missing) = files.iter().find(|file| !root().join(file).is_file()) {
        return Err(format!("{missing} is not a file of this repository"));
    }
    let tools = root().join("target/tools");
    let program = tools.join("bin/cargo-mutants");
    if !program.is_file() {
        println!("installing cargo-mutants");
        let mut install = cargo(&["install", "cargo-mutants", "--version", VERSION, "--locked", "--quiet"]);
        succeed(install.arg("--root").arg(&tools))?;
    }
    // Some tests of the limiter compare its script with a model, on a real Redis.
    let redis = servers::redis()?;
    let folder = root().join("target/mutants");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut mutants = std::process::Command::new(&program);
    mutants.current_dir(root()).args(["mutants", "--workspace", "--output"]).arg(&folder).args(BOUNDS);
    // A fixed folder, so that unchanged crates are not built again for the copy of each run.
    mutants.env("CARGO_TARGET_DIR", folder.join("build")).env("PHASE6_TEST_REDIS", &redis.url);
    if !files.is_empty() {
        // Otherwise these files would be added to those of the configuration.
        mutants.arg("--no-config");
    }
    for file in files {
        mutants.args(["--file", file]);
    }
    // Tests with Redis are ignored unless they are asked for.
    mutants.args(["--", "--", "--include-ignored"]);
    let path = folder.join("mutants.out/outcomes.json");
    // The results of an earlier run must not be read if this one fails.
    let _ = std::fs::remove_file(&path);
    // It fails if any mutant is missed; the goal is checked here.
    let status = mutants.status().map_err(|error| format!("{}: {error}", program.display()))?;
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{status}; {}: {error}", path.display()))?;
    let outcomes = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let score = Score::read(&outcomes);
    println!("{score}; {} lists those that were missed", folder.join("mutants.out/missed.txt").display());
    score.result()
}

/// Number of mutants that the tests detected. A mutant whose tests time out is detected; one that does not
/// compile does not count.
struct Score {
    detected: u64,
    total: u64,
}

impl Score {
    /// Reads the outcomes that cargo-mutants has written.
    fn read(outcomes: &Value) -> Self {
        let count = |name: &str| outcomes[name].as_u64().unwrap_or(0);
        let detected = count("caught") + count("timeout");
        Self { detected, total: detected + count("missed") }
    }

    fn percent(&self) -> f64 {
        self.detected as f64 / self.total as f64 * 100.0
    }

    /// Succeeds if the score reaches the goal.
    fn result(&self) -> Result<(), String> {
        if self.total == 0 {
            return Err("cargo-mutants tried no mutant".into());
        }
        if self.percent() >= GOAL {
            Ok(())
        } else {
            Err(format!("{:.1} % is below {GOAL} %", self.percent()))
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} mutants were detected, {:.1} %", self.detected, self.total, self.percent())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nine_of_ten_mutants_must_be_detected() {
        let score = |caught, missed, timeout| {
            Score::read(&json!({"caught": caught, "missed": missed, "timeout": timeout, "unviable": 7}))
        };
        let passing = score(8, 1, 1);
        assert_eq!(passing.to_string(), "9 of 10 mutants were detected, 90.0 %");
        assert_eq!(passing.result(), Ok(()));
        assert_eq!(score(8, 1, 0).result(), Err("88.9 % is below 90 %".into()));
        assert!(score(0, 0, 0).result().is_err(), "no mutant was tried");
    }
}
