//! Runs the test programs of the workspace, several at a time.
//!
//! `cargo test` runs one program after the other, and most programs wait for servers and timers most of the
//! time. Output is printed when a program has ended, so that lines of two programs never mix.

use std::{
    collections::VecDeque,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    time::Instant,
};

use serde_json::Value;

use super::report::{Counts, Report};
use crate::run::cargo;
#[cfg(test)]
use crate::run::root;

/// Programs that run at a time.
const PARALLEL: usize = 3;

/// Programs that start first, because they take longest: `folder::target`, as in the output.
const SLOWEST: [&str; 5] =
    ["tests::chaos", "tests::ninth_service", "tests::jobs", "tests::fleet", "cache::fill_lock"];

/// One test program.
#[derive(Debug)]
pub(super) struct Executable {
    /// Name of its package.
    pub(super) package: String,
    /// `folder::target`, for messages.
    pub(super) name: String,
    path: PathBuf,
    /// Folder of its package, which cargo makes the working directory of tests.
    folder: PathBuf,
}

/// Builds the workspace with all tests and benchmarks: one build, so that each crate has one set of features and
/// is compiled once. Returns the test programs.
pub(super) fn build() -> Result<Vec<Executable>, String> {
    let mut command = cargo(&["build", "--workspace", "--all-targets", "--locked"]);
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("failed to start cargo: {error}"))?;
    if !output.status.success() {
        return Err("the workspace does not compile".into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found: Vec<Executable> = text.lines().filter_map(executable).collect();
    let rank = |executable: &Executable| {
        SLOWEST.iter().position(|slow| *slow == executable.name).unwrap_or(SLOWEST.len())
    };
    found.sort_by_key(rank);
    Ok(found)
}

/// Reads a message of cargo about a test program. Excludes benchmarks, and the suite for a cluster, which has its
/// own harness and runs later.
fn executable(message: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let target = message["target"]["name"].as_str()?;
    if target == "e2e" || message["target"]["kind"][0] == "bench" {
        return None;
    }
    let folder = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    // `path+file:///w/crates/cache#phase6-cache@0.1.0`
    let (package, _) = message["package_id"].as_str()?.rsplit_once('#')?.1.split_once('@')?;
    Some(Executable {
        package: package.to_owned(),
        name: format!("{}::{target}", folder.file_name()?.to_string_lossy()),
        path: message["executable"].as_str()?.into(),
        folder,
    })
}

/// Runs all programs with the tests that need servers; `prepare` adds their environment.
pub(super) fn run(report: &mut Report, executables: Vec<Executable>, prepare: impl Fn(&mut Command) + Sync) {
    let queue = Mutex::new(VecDeque::from(executables));
    let report = Mutex::new(report);
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics").pop_front();
                    let Some(executable) = next else { return };
                    let start = Instant::now();
                    let (output, counts) = execute(&executable, &prepare);
                    let mut report = report.lock().expect("no thread panics");
                    println!("{} ({:.1} s)\n{output}", executable.name, start.elapsed().as_secs_f64());
                    report.add(counts);
                }
            });
        }
    });
}

fn execute(executable: &Executable, prepare: &impl Fn(&mut Command)) -> (String, Counts) {
    let mut command = Command::new(&executable.path);
    command.arg("--include-ignored").current_dir(&executable.folder).stdin(Stdio::null());
    command.env("CARGO_MANIFEST_DIR", &executable.folder);
    command.env("CARGO", std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    prepare(&mut command);
    match command.output() {
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            let counts = Counts::read(&text, output.status.success(), &executable.name);
            // Diagnostics of tests that pass are noise.
            if !counts.failed.is_empty() {
                text += &String::from_utf8_lossy(&output.stderr);
            }
            (text, counts)
        }
        Err(error) => {
            let text = format!("failed to start {}: {error}", executable.path.display());
            let counts = Counts::read("", false, &executable.name);
            (text, counts)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_programs_exist() {
        for name in SLOWEST {
            let (package, target) = name.split_once("::").unwrap();
            let folders = [root().join(package), root().join("crates").join(package)];
            let file = |folder: &PathBuf| {
                let tests = folder.join("tests");
                tests.join(format!("{target}.rs")).is_file() || tests.join(target).join("main.rs").is_file()
            };
            assert!(folders.iter().any(file), "{name}");
        }
    }

    #[test]
    fn test_programs_are_read_from_the_messages_of_cargo() {
        let message = |target: &str, kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/crates/cache/Cargo.toml",
                "package_id":"path+file:///w/crates/cache#phase6-cache@0.1.0",
                "target":{{"name":"{target}","kind":["{kind}"]}},
                "profile":{{"test":{test}}},"executable":"/t/{target}-1"}}"#
            )
        };
        let found = executable(&message("layer", "test", true)).unwrap();
        assert_eq!((found.name.as_str(), found.package.as_str()), ("cache::layer", "phase6-cache"));
        assert_eq!(found.folder.to_str(), Some("/w/crates/cache"));
        assert!(executable(&message("phase6", "bin", false)).is_none(), "an ordinary program");
        assert!(executable(&message("hit", "bench", true)).is_none(), "a benchmark");
        assert!(executable(&message("e2e", "test", true)).is_none(), "the suite for a cluster");
        assert!(executable("warning: unused").is_none());
    }
}
