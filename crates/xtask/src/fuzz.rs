//! `cargo xtask fuzz`: what reads strangers' bytes, under any bytes, for a minute each.
//!
//! libFuzzer on the stable toolchain: the compiler counts which edges of the code an input reaches, and what
//! reaches new ones is kept and changed further. Overflows and failed assertions are failures too. `fuzz/`
//! holds the targets, what each of them begins with, and words that it may use.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use crate::{
    run::{cargo, root, succeed},
    servers::provide,
};

/// Each in `fuzz/targets`.
const TARGETS: [&str; 6] = ["cache_key", "http_head", "policy", "redis_reply", "trace_header", "yaml"];
/// So long is each of them run.
const USUALLY: Duration = Duration::from_mins(1);
/// So many at a time.
const AT_ONCE: usize = 2;

/// What an input may take. The slowest ones of a sound target are far from it.
const BOUNDS: [&str; 3] = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"];

/// Counters at edges, a table of them, and what is compared with what: what `cargo fuzz` asks for, without the
/// address sanitizer, which takes a nightly toolchain and looks for what code without `unsafe` cannot do.
const FLAGS: [&str; 8] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// For how long, and which targets: `[--seconds N] [TARGET...]`.
pub(crate) fn run(options: &[&str]) -> Result<(), String> {
    let (time, targets) = asked(options)?;
    let programs = build(&targets)?;
    let queue = Mutex::new(targets.iter());
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(target) = next else { return };
                    let line = fuzz(&programs, target, time);
                    if let Ok(mut told) = told.lock() {
                        told.push((*target, line));
                    }
                }
            });
        }
    });
    let mut told = told.into_inner().map_err(|_| "a target has no result")?;
    told.sort_unstable();
    for (target, line) in &told {
        match line {
            Ok(line) => println!("{target}: {line}"),
            Err(line) => println!("{target}: FAILED: {line}"),
        }
    }
    let failed = targets.len() - told.iter().filter(|(_, line)| line.is_ok()).count();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} targets failed", targets.len())) }
}

fn asked<'a>(options: &[&'a str]) -> Result<(Duration, BTreeSet<&'a str>), String> {
    let (time, names) = match options {
        ["--seconds", seconds, names @ ..] => {
            let accepted = seconds.parse().ok().filter(|seconds| *seconds > 0);
            let seconds = accepted
                .ok_or_else(|| format!("--seconds {seconds}: accepted is a whole number from 1 on"))?;
            (Duration::from_secs(seconds), names)
        }
        names => (USUALLY, names),
    };
    if let Some(wrong) = names.iter().find(|name| !TARGETS.contains(name)) {
        return Err(format!("target {wrong}: accepted are {}", TARGETS.join(", ")));
    }
    let targets = if names.is_empty() { &TARGETS } else { names };
    Ok((time, targets.iter().copied().collect()))
}

/// Builds targets; the folder of their programs.
fn build(targets: &BTreeSet<&str>) -> Result<PathBuf, String> {
    // libFuzzer itself is C++.
    provide("c++", "g++")?;
    println!("building the targets (some minutes on two cores)");
    let host = host()?;
    let folder = root().join("target/fuzz");
    let mut build = cargo(&["build", "--locked", "--quiet", "--manifest-path", "fuzz/Cargo.toml"]);
    // With a target named, programs that run during the build are built without these flags.
    build.args(["--target", &host, "--target-dir"]).arg(&folder);
    for target in targets {
        build.args(["--bin", target]);
    }
    build.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    succeed(&mut build)?;
    Ok(folder.join(host).join("debug"))
}

/// What the compiler builds for if nobody says otherwise.
fn host() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let told = String::from_utf8_lossy(&output.stdout);
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say what it builds for".to_owned())
}

/// Runs one target; what to tell of it.
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
    command.arg(&corpus).arg(root().join("fuzz/seeds").join(target)).args(BOUNDS);
    command.arg(format!("-dict={}", root().join("fuzz/words").join(target).display()));
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.arg(format!("-max_total_time={}", time.as_secs())).stderr(output);
    let status = command.status().map_err(|error| format!("{}: {error}", program.display()))?;
    let said = std::fs::read_to_string(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    if status.success() {
        return summary(&said);
    }
    Err(match failing_input(&found) {
        Some(input) => {
            format!("{} (shown again by `{} {0}`)", input.display(), program.display())
        }
        None => format!("{status}, see {}", log.display()),
    })
}

/// The input that a failed run has left.
fn failing_input(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|file| file.file_name().is_some_and(|name| name != "log"))
}

/// What a run that went well has to show: `#N INITED cov: N ...` to `#N DONE cov: N ... corp: N/Nb ...`.
fn summary(log: &str) -> Result<String, String> {
    let figures = |word: &str| {
        let mut words = log.lines().rev().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let inputs = words.next()?.strip_prefix('#')?;
            (words.next()? == word).then_some((inputs, words))
        })?;
        let coverage = words.1.find(|name| *name == "cov:").and_then(|_| words.1.next());
        Some((words.0, coverage?.parse::<u64>().ok()?))
    };
    // Without it any change is as good as any other, and nothing is found.
    let uncounted = "it does not count what its inputs reach";
    let (_, before) = figures("INITED").ok_or(uncounted)?;
    let (inputs, after) = figures("DONE").ok_or(uncounted)?;
    Ok(format!("{inputs} inputs, edges reached: {before} by what it began with, {after} in the end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_say_which_targets_and_for_how_long() {
        let (time, targets) = asked(&[]).unwrap();
        assert_eq!((time, targets.len()), (USUALLY, 6));
        let (time, targets) = asked(&["--seconds", "5", "yaml", "policy", "yaml"]).unwrap();
        assert_eq!((time.as_secs(), targets.into_iter().collect::<Vec<_>>()), (5, vec!["policy", "yaml"]));
        assert_eq!(
            asked(&["json"]),
            Err("target json: accepted are cache_key, http_head, policy, redis_reply, trace_header, yaml"
                .into())
        );
        assert!(asked(&["--seconds", "0"]).unwrap_err().contains("from 1 on"));
    }

    #[test]
    fn every_target_is_run() {
        let files = std::fs::read_dir(root().join("fuzz/targets")).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        names.sort();
        let names: Vec<_> = names.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, TARGETS);
    }

    #[test]
    fn a_run_that_counts_no_coverage_is_no_success() {
        let log = "#5\tINITED cov: 40 ft: 50 corp: 4/9b exec/s: 0 rss: 48Mb\n#9\tNEW    cov: 41 ft: 9\n\
                   #3550\tDONE   cov: 172 ft: 234 corp: 10/29Kb lim: 758 exec/s: 27 rss: 55Mb\nDone 3550 runs";
        let told = "3550 inputs, edges reached: 40 by what it began with, 172 in the end";
        assert_eq!(summary(log), Ok(told.to_owned()));
        assert!(summary("#5\tINITED exec/s: 0\n#3550\tDONE   corp: 1/1b exec/s: 27").is_err());
        assert!(summary("").is_err());
    }
}
