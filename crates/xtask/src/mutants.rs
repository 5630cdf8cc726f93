//! `cargo xtask mutants`: the cores, changed in one place at a time. A change that no test notices shows a
//! test that is missing.
//!
//! By cargo-mutants, on a copy of the sources; `.cargo/mutants.toml` says which files are cores. All of them take
//! long, so it is no part of `cargo xtask test`.

use serde_json::Value;

use crate::{
    run::{cargo, root, succeed},
    servers,
};

/// What is installed.
const VERSION: &str = "27.1.0";
/// What waits for ever is noticed too: a multiple of what the tests usually take, and at least so many seconds.
const BOUNDS: [&str; 4] = ["--timeout-multiplier", "3", "--minimum-test-timeout", "30"];
/// So many of a hundred changes have to be noticed.
const GOAL: f64 = 90.0;

/// All cores, or these files of them.
pub(crate) fn run(files: &[&str]) -> Result<(), String> {
    let tools = root().join("target/tools");
    let program = tools.join("bin/cargo-mutants");
    if !program.is_file() {
        println!("installing cargo-mutants");
        let mut install = cargo(&["install", "cargo-mutants", "--version", VERSION, "--locked", "--quiet"]);
        succeed(install.arg("--root").arg(&tools))?;
    }
    // Some of the limiter's tests hold its script against its model.
    let redis = servers::redis()?;
    let folder = root().join("target/mutants");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut mutants = std::process::Command::new(&program);
    mutants.current_dir(root()).args(["mutants", "--workspace", "--output"]).arg(&folder).args(BOUNDS);
    // What does not change is built once, not once for each run's copy.
    mutants.env("CARGO_TARGET_DIR", folder.join("build")).env("PHASE6_TEST_REDIS", &redis.url);
    if !files.is_empty() {
        // Otherwise they would come on top of those that the configuration names.
        mutants.arg("--no-config");
    }
    for file in files {
        mutants.args(["--file", file]);
    }
    let path = folder.join("mutants.out/outcomes.json");
    // What is judged is of this run.
    let _ = std::fs::remove_file(&path);
    // It fails when a change was not noticed; how many were is judged here.
    let status = mutants.status().map_err(|error| format!("{}: {error}", program.display()))?;
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{status}; {}: {error}", path.display()))?;
    let outcomes = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let (line, result) = judge(&outcomes);
    println!("{line}; {} names those that were not", folder.join("mutants.out/missed.txt").display());
    result
}

/// How many changes were noticed, and whether they are enough. One that never ends is noticed too; one that
/// does not compile is none.
fn judge(outcomes: &Value) -> (String, Result<(), String>) {
    let count = |name: &str| outcomes[name].as_u64().unwrap_or(0);
    let noticed = count("caught") + count("timeout");
    let all = noticed + count("missed");
    if all == 0 {
        return ("no change was tried".into(), Err("cargo-mutants tried no change".into()));
    }
    let score = noticed as f64 / all as f64 * 100.0;
    let result = if score >= GOAL { Ok(()) } else { Err(format!("{score:.1} % is below {GOAL} %")) };
    (format!("{noticed} of {all} changes were noticed, {score:.1} %"), result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nine_of_ten_changes_have_to_be_noticed() {
        let judged = |caught, missed, timeout| {
            judge(&json!({"caught": caught, "missed": missed, "timeout": timeout, "unviable": 7}))
        };
        let (line, result) = judged(8, 1, 1);
        assert_eq!((line.as_str(), result), ("9 of 10 changes were noticed, 90.0 %", Ok(())));
        assert_eq!(judged(8, 1, 0).1, Err("88.9 % is below 90 %".into()));
        assert!(judged(0, 0, 0).1.is_err(), "nothing was tried");
    }
}
