//! `cargo xtask fuzz`: the parsers of untrusted input, fuzzed by libFuzzer on the stable toolchain.
//!
//! The compiler counts which edges of the code an input reaches; inputs that reach new ones are kept and
//! mutated further. Overflows and failed assertions are failures too. `fuzz/` has the targets, hand-made inputs
//! (`seeds`), inputs that earlier runs found (`corpus`), and dictionaries (`words`).
//!
//! The long run instruments every library. The quick run, which is a part of `cargo xtask test`, instruments
//! our own crates only and shares all others with the release build.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use crate::{
    run::{cargo, root, succeed, this_program},
    servers::provide,
};

/// The targets, each a file of `fuzz/targets`.
const TARGETS: [&str; 6] = ["cache_key", "http_head", "policy", "redis_reply", "trace_header", "yaml"];
/// Time for each target of a long run.
const LONG: Duration = Duration::from_mins(1);
/// Targets that run at a time.
const PARALLEL: usize = 2;
/// Longest input of the committed corpus, in bytes.
const MAX_COMMITTED: &str = "-max_len=1024";
/// Bounds of an input: bytes, seconds, and megabytes of memory.
const BOUNDS: [&str; 3] = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"];

/// Compiler flags that count edges and record comparisons, as `cargo fuzz` sets them. Without the address
/// sanitizer, which needs a nightly toolchain and searches for errors that code without `unsafe` cannot make.
const FLAGS: [&str; 7] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Flags of the quick build instead of those of the release build: every check, and less time to compile.
const QUICK: [&str; 3] = ["-Cdebug-assertions=on", "-Coverflow-checks=on", "-Copt-level=1"];

/// Variable that makes this program a wrapper of the compiler.
const WRAPPER: &str = "PHASE6_FUZZ_WRAPPER";

/// Runs the long form: `[--seconds N] [TARGET...]`, or renews the committed corpus: `--merge [TARGET...]`.
pub(crate) fn run(options: &[&str]) -> Result<(), String> {
    if let ["--merge", names @ ..] = options {
        let (_, targets) = parse(names)?;
        let programs = build_instrumented(&targets)?;
        return targets.iter().try_for_each(|target| merge(&programs, target));
    }
    let (time, targets) = parse(options)?;
    let programs = build_instrumented(&targets)?;
    fuzz_all(&programs, &targets, time)
}

/// Runs every target for `time`, with only our own crates instrumented.
pub(crate) fn run_quick(time: Duration) -> Result<(), String> {
    let programs = build_quick()?;
    fuzz_all(&programs, &TARGETS.into_iter().collect(), time)
}

fn parse<'a>(options: &[&'a str]) -> Result<(Duration, BTreeSet<&'a str>), String> {
    let (time, names) = match options {
        ["--seconds", seconds, names @ ..] => {
            let number = seconds.parse().ok().filter(|seconds| *seconds > 0);
            let number = number.ok_or_else(|| format!("--seconds {seconds}; accepted: an integer from 1"))?;
            (Duration::from_secs(number), names)
        }
        ["--seconds"] => return Err("--seconds; accepted: --seconds N, an integer from 1".into()),
        names => (LONG, names),
    };
    if let Some(unknown) = names.iter().find(|name| !TARGETS.contains(name)) {
        return Err(format!("unknown target {unknown}; accepted: {}", TARGETS.join(", ")));
    }
    let targets = if names.is_empty() { &TARGETS } else { names };
    Ok((time, targets.iter().copied().collect()))
}

/// Builds targets with every library instrumented. Returns the folder of their programs.
fn build_instrumented(targets: &BTreeSet<&str>) -> Result<PathBuf, String> {
    // libFuzzer itself is C++.
    provide("c++", "g++")?;
    println!("building the targets (some minutes on two cores)");
    let host = host()?;
    let folder = root().join("target/fuzz");
    let mut build = cargo(&["build", "--locked", "--quiet", "--profile", "fuzz", "--package", "phase6-fuzz"]);
    // A named target keeps these flags away from programs that run during the build.
    build.args(["--features", "targets", "--target", &host, "--target-dir"]).arg(&folder);
    for target in targets {
        build.args(["--bin", target]);
    }
    build.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    succeed(&mut build)?;
    Ok(folder.join(host).join("fuzz"))
}

/// Builds all targets as part of the release build, with this program as the wrapper of the compiler for our
/// own crates.
fn build_quick() -> Result<PathBuf, String> {
    provide("c++", "g++")?;
    let mut build = cargo(&["build", "--locked", "--quiet", "--release", "--workspace"]);
    build.args(["--features", "phase6-fuzz/targets,phase6-cli/cluster"]);
    for target in TARGETS {
        build.args(["--bin", target]);
    }
    build.env("RUSTC_WORKSPACE_WRAPPER", this_program()?).env(WRAPPER, "1");
    succeed(&mut build)?;
    Ok(root().join("target/release"))
}

/// Becomes the compiler with the flags of the fuzzer, if cargo called this program as a wrapper of it.
pub(crate) fn wrap_compiler(arguments: &[OsString]) {
    if std::env::var_os(WRAPPER).is_none() {
        return;
    }
    let [_, compiler, arguments @ ..] = arguments else { return };
    // Cargo's queries about the compiler name no crate.
    let compiles = arguments.iter().any(|argument| argument == "--crate-name");
    let mut command = Command::new(compiler);
    command.args(arguments);
    if compiles && !arguments.iter().any(|argument| argument == "build_script_build") {
        command.args(FLAGS).args(QUICK);
    }
    let error = command.exec();
    eprintln!("failed to start the compiler: {error}");
    std::process::exit(1);
}

/// Returns the target triple of the compiler's host.
fn host() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let version = String::from_utf8_lossy(&output.stdout);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}

fn fuzz_all(programs: &Path, targets: &BTreeSet<&str>, time: Duration) -> Result<(), String> {
    let queue = Mutex::new(targets.iter());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(target) = next else { return };
                    let result = fuzz(programs, target, time);
                    if let Ok(mut results) = results.lock() {
                        results.push((*target, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().map_err(|_| "a target has no result")?;
    results.sort_unstable();
    for (target, result) in &results {
        match result {
            Ok(line) => println!("{target}: {line}"),
            Err(line) => println!("{target}: FAILED: {line}"),
        }
    }
    let failed = targets.len() - results.iter().filter(|(_, result)| result.is_ok()).count();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} targets failed", targets.len())) }
}

/// Runs one target. Returns a line about what it reached, or about the input that failed.
fn fuzz(programs: &Path, target: &str, time: Duration) -> Result<String, String> {
    let folder = |name: &str| root().join("target/fuzz").join(name).join(target);
    let (corpus, found) = (folder("corpus"), folder("found"));
    let _ = std::fs::remove_dir_all(&found);
    for folder in [&corpus, &found] {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let log = found.join("log");
    let output = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let program = programs.join(target);
    let mut command = Command::new(&program);
    command.arg(&corpus).args(BOUNDS);
    for inputs in ["fuzz/seeds", "fuzz/corpus"] {
        command.arg(root().join(inputs).join(target));
    }
    command.arg(format!("-dict={}", root().join("fuzz/words").join(target).display()));
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.arg(format!("-max_total_time={}", time.as_secs())).stderr(output);
    let status = command.status().map_err(|error| format!("{}: {error}", program.display()))?;
    let log_text = std::fs::read_to_string(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    if status.success() {
        return summary(&log_text);
    }
    Err(match failing_input(&found) {
        Some(input) => format!("{0} (reproduce: `{1} {0}`)", input.display(), program.display()),
        None => format!("{status}, see {}", log.display()),
    })
}

/// Replaces the committed corpus of a target by the fewest inputs that cover the same code as it and the inputs
/// of earlier runs.
fn merge(programs: &Path, target: &str) -> Result<(), String> {
    let committed = root().join("fuzz/corpus").join(target);
    let folder = root().join("target/fuzz");
    let (earlier, merged) = (folder.join("corpus").join(target), folder.join("merged").join(target));
    let _ = std::fs::remove_dir_all(&merged);
    for folder in [&earlier, &merged, &committed] {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let mut command = Command::new(programs.join(target));
    command.args(["-set_cover_merge=1", MAX_COMMITTED]).arg(&merged).args([&committed, &earlier]);
    // Inputs that only repeat a loop more often, or that compare other values, are not worth a file.
    command.args(["-use_counters=0", "-use_cmp=0"]).stderr(std::process::Stdio::null());
    succeed(&mut command)?;
    let mut count = 0;
    let unreadable = |error: std::io::Error| format!("{}: {error}", merged.display());
    std::fs::remove_dir_all(&committed).map_err(|error| format!("{}: {error}", committed.display()))?;
    std::fs::create_dir_all(&committed).map_err(|error| format!("{}: {error}", committed.display()))?;
    for entry in std::fs::read_dir(&merged).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        std::fs::copy(entry.path(), committed.join(entry.file_name())).map_err(unreadable)?;
        count += 1;
    }
    println!("{target}: {count} inputs in {}", committed.display());
    Ok(())
}

/// Returns the input that a failed run has saved.
fn failing_input(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|file| file.file_name().is_some_and(|name| name != "log"))
}

/// Summarizes the log of a run: `#N INITED cov: N ...` to `#N DONE cov: N ... corp: N/Nb ...`. A run that
/// counts no coverage is an error: its mutations are blind.
fn summary(log: &str) -> Result<String, String> {
    let figures = |event: &str| {
        let (inputs, mut words) = log.lines().rev().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let inputs = words.next()?.strip_prefix('#')?;
            (words.next()? == event).then_some((inputs, words))
        })?;
        let coverage = words.find(|name| *name == "cov:").and_then(|_| words.next());
        Some((inputs, coverage?.parse::<u64>().ok()?))
    };
    let uncounted = "it counts no coverage";
    let (_, before) = figures("INITED").ok_or(uncounted)?;
    let (inputs, after) = figures("DONE").ok_or(uncounted)?;
    Ok(format!("{inputs} inputs, edges covered: {before} by the corpus, {after} at the end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_select_targets_and_time() {
        let (time, targets) = parse(&[]).unwrap();
        assert_eq!((time, targets.len()), (LONG, 6));
        let (time, targets) = parse(&["--seconds", "5", "yaml", "policy", "yaml"]).unwrap();
        assert_eq!((time.as_secs(), targets.into_iter().collect::<Vec<_>>()), (5, vec!["policy", "yaml"]));
        assert_eq!(
            parse(&["json"]),
            Err("unknown target json; accepted: cache_key, http_head, policy, redis_reply, trace_header, yaml"
                .into())
        );
        assert!(parse(&["--seconds", "0"]).unwrap_err().contains("from 1"));
    }

    #[test]
    fn every_target_is_listed() {
        let files = std::fs::read_dir(root().join("fuzz/targets")).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        names.sort();
        let names: Vec<_> = names.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, TARGETS);
    }

    #[test]
    fn a_run_without_coverage_is_an_error() {
        let log = "#5\tINITED cov: 40 ft: 50 corp: 4/9b exec/s: 0 rss: 48Mb\n#9\tNEW    cov: 41 ft: 9\n\
                   #3550\tDONE   cov: 172 ft: 234 corp: 10/29Kb lim: 758 exec/s: 27 rss: 55Mb\nDone 3550 runs";
        let line = "3550 inputs, edges covered: 40 by the corpus, 172 at the end";
        assert_eq!(summary(log), Ok(line.to_owned()));
        assert!(summary("#5\tINITED exec/s: 0\n#3550\tDONE   corp: 1/1b exec/s: 27").is_err());
        assert!(summary("").is_err());
    }
}
