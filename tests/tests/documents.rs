//! The documents: every command in them is run and prints what they show, every link and every test that they
//! name exists.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use phase6_tests::{
    Program, cargo, free_ports,
    markdown::{Block, Command, blocks, documents},
    program, root,
};
use rustix::process::Signal;

/// A command of the documents that this file does not run, and the code that runs it.
struct RunElsewhere {
    command: &'static str,
    file: &'static str,
    /// Part of the file that runs the command, or calls the function behind it.
    code: &'static str,
}

const fn run_by(command: &'static str, file: &'static str, code: &'static str) -> RunElsewhere {
    RunElsewhere { command, file, code }
}

const XTASK: &str = "crates/xtask/src/main.rs";
const TEST: &str = "crates/xtask/src/test.rs";
const E2E: &str = "crates/xtask/src/e2e.rs";

/// Commands of developers.
const RUN_ELSEWHERE: [RunElsewhere; 21] = [
    run_by("cargo xtask test", ".ci/run", "exec cargo xtask test"),
    // Both are parts of the run above.
    run_by("cargo xtask test --without-cluster", XTASK, "test::run(test::Scope::WithoutCluster)"),
    run_by("cargo xtask test --changed", XTASK, r#"test::run_changed("HEAD")"#),
    run_by("cargo xtask test --changed HEAD~1", XTASK, "test::run_changed(revision)"),
    run_by("cargo xtask demo", TEST, "demo::run"),
    run_by("cargo xtask e2e", TEST, "e2e::run_all("),
    // The same suite with higher counts.
    run_by("cargo xtask prove", TEST, "e2e::run_all("),
    run_by("cargo xtask image", E2E, "image::phase6()?"),
    run_by("cargo xtask cluster up", E2E, "cluster.up()?"),
    run_by("cargo xtask cluster down", TEST, "cluster.down()"),
    run_by("cargo xtask cluster exec -- kubectl get nodes", "crates/xtask/src/demo.rs", "cluster.kubectl("),
    // All checks but the one of advisories, which needs the network.
    run_by("cargo deny check", "tests/tests/third_party.rs", "fn licenses_are_allowed()"),
    run_by("cargo fmt --all --check", TEST, r#"cargo(&["fmt", "--all", "--check"])"#),
    run_by(
        "cargo clippy --workspace --all-targets -- -D warnings",
        TEST,
        r#"cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"])"#,
    ),
    run_by("cargo test --workspace", TEST, "tests(&mut report, |_| true, collector)"),
    run_by("cargo xtask bench --smoke", TEST, "bench::run(bench::Effort::Smoke)"),
    // The same steps; measurements take minutes on an idle machine.
    run_by("cargo xtask bench", TEST, "bench::run(bench::Effort::Smoke)"),
    run_by("cargo xtask fuzz", TEST, "fuzz::run_quick("),
    run_by("cargo xtask instructions", TEST, "instructions::run(instructions::Purpose::Compare)"),
    // The same counts, written instead of compared.
    run_by("cargo xtask instructions --accept", TEST, "instructions::run(instructions::Purpose::Compare)"),
    run_by("cargo run --release -- up", "tests/tests/documents.rs", r#"["up", "--base-port""#),
];

fn run_elsewhere(command: &str) -> Option<&'static RunElsewhere> {
    RUN_ELSEWHERE.iter().find(|entry| entry.command == command)
}

/// Documents whose `kubectl` and `helm` commands tests/e2e/cases/documents.rs runs in order on a cluster.
const ON_CLUSTER: [&str; 2] = ["README.md", "docs/operating.md"];

fn needs_cluster(command: &str) -> bool {
    command.starts_with("kubectl ") || command.starts_with("helm ")
}

/// The terminals of a reader: a fleet in one, commands in another, in a folder like a fresh clone.
struct Session {
    folder: tempfile::TempDir,
    base_port: u16,
    fleet: Program,
}

impl Session {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let examples = folder.path().join("crds/examples");
        std::fs::create_dir_all(&examples).unwrap();
        std::fs::copy(root().join("crds/examples/fleet.yaml"), examples.join("fleet.yaml")).unwrap();
        let base_port = free_ports();
        // Nothing listens on port 1, so no provider is available, whatever runs on this machine.
        let unreachable = "http://127.0.0.1:1/v1";
        let fleet = Program::start_in(
            folder.path(),
            &["up", "--base-port", &base_port.to_string()],
            &[
                ("OLLAMA_ENABLED", "true"),
                ("OLLAMA_BASE_URL", unreachable),
                ("LOCALAI_ENABLED", "true"),
                ("LOCALAI_BASE_URL", unreachable),
            ],
        );
        fleet.wait_for_output("Try in another terminal");
        Self { folder, base_port, fleet }
    }

    /// Runs a command as a reader would. Returns its output.
    fn run(&self, command: &Command) -> String {
        let mut text = command.text.replace("target/release/phase6", program().to_str().unwrap());
        for offset in 0..10 {
            text = text.replace(
                &format!("127.0.0.1:{}", 3000 + offset),
                &format!("127.0.0.1:{}", self.base_port + offset),
            );
        }
        if ["phase6 status", "phase6 cache purge"].iter().any(|command| text.contains(command)) {
            text = format!("{text} --base-port {}", self.base_port);
        }
        let output =
            std::process::Command::new("sh").args(["-c", &text]).current_dir(self.folder.path()).output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}: {errors}", command.location);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the commands of a document from top to bottom.
    fn follow(&self, document: &str) {
        for block in blocks(Path::new(document)) {
            match block.language.as_str() {
                "console" => self.check(&block),
                "text" => self.wait_for_fleet_output(&block.lines, &block.location),
                _ => {}
            }
        }
    }

    fn check(&self, block: &Block) {
        for command in block.commands() {
            if command.text == "cargo run --release -- up" {
                self.wait_for_fleet_output(&command.expected_output, &command.location);
            } else if needs_cluster(&command.text) {
                // tests/e2e/cases/documents.rs runs it.
            } else if run_elsewhere(&command.text).is_none() {
                let output = self.run(&command);
                assert!(
                    !output.is_empty() || command.text.starts_with("sed "),
                    "{} prints nothing",
                    command.text
                );
                let missing = missing(&command.expected_output, &output, self);
                assert_eq!(missing, None, "{}: {} printed\n{output}", command.location, command.text);
            }
        }
    }

    /// Waits until the fleet has printed these lines.
    fn wait_for_fleet_output(&self, lines: &[String], location: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(line) = missing(lines, &self.fleet.output(), self) {
            assert!(
                Instant::now() < deadline,
                "{location}: the fleet did not print {line:?}:\n{}",
                self.fleet.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Returns the first expected line that `output` lacks. Expected lines must appear in order; numbers and hashes
/// match any other.
fn missing(expected: &[String], output: &str, session: &Session) -> Option<String> {
    let port = format!(" --base-port {}", session.base_port);
    let output = output.replace(program().to_str().unwrap(), "target/release/phase6").replace(&port, "");
    let mut lines = output.lines().map(normalized);
    expected.iter().find(|expected| !lines.any(|line| line == normalized(expected))).cloned()
}

/// Replaces numbers, hashes and runs of spaces, which differ between two runs.
fn normalized(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut normalized = String::new();
    for part in words.join(" ").split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            normalized.push('#');
        } else {
            let mut digits = false;
            for c in word.chars() {
                if !c.is_ascii_digit() {
                    normalized.push(c);
                } else if !digits {
                    normalized.push('#');
                }
                digits = c.is_ascii_digit();
            }
        }
        normalized.push_str(&part[word.len()..]);
    }
    normalized
}

#[test]
fn lines_match_despite_other_numbers_and_hashes_but_not_other_words() {
    let line = "revision  2 is 0d4d40f5a5b8, 1.5s";
    assert_eq!(normalized(line), normalized("revision 14 is aaaabbbbcccc, 20.25s"));
    assert_ne!(normalized("capacity 100 -> 3"), normalized("refill 100 -> 3"));
}

#[test]
fn the_session_of_the_readme_works_as_written() {
    let mut session = Session::start();
    session.follow("README.md");
    session.fleet.signal(Signal::INT);
    assert_eq!(session.fleet.wait_for_exit(Duration::from_secs(10)), Some(0));
}

#[test]
fn the_commands_of_the_guide_to_running_work_as_written() {
    let session = Session::start();
    session.follow("docs/running.md");
}

#[test]
fn the_remaining_commands_of_developers_work() {
    for (arguments, expected) in
        [(vec!["xtask", "crd"], "is up to date"), (vec!["test", "-p", "phase6-policy"], "test result: ok")]
    {
        let output = cargo(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn every_command_in_the_documents_is_run_by_a_test() {
    let run_here = ["cargo xtask crd", "cargo test -p phase6-policy"];
    let followed = ["README.md", "docs/running.md"];
    for document in documents() {
        for block in blocks(&document) {
            let location = &block.location;
            assert!(
                ["console", "text"].contains(&block.language.as_str()),
                "{location}: commands go into `console` blocks"
            );
            if block.language == "text" {
                continue;
            }
            for command in block.commands() {
                let elsewhere = run_elsewhere(&command.text);
                let is_run = elsewhere.is_some()
                    || run_here.contains(&command.text.as_str())
                    || (needs_cluster(&command.text)
                        && ON_CLUSTER.map(Path::new).contains(&document.as_path()))
                    || followed.iter().any(|followed| document == Path::new(followed));
                assert!(is_run, "{location}: nothing runs {:?}", command.text);
                if let Some(RunElsewhere { file, code, .. }) = elsewhere {
                    let text = std::fs::read_to_string(root().join(file)).unwrap();
                    // The formatter breaks long lines.
                    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    assert!(joined.contains(code), "{file} does not run {:?}", command.text);
                }
            }
        }
    }
}

#[test]
fn every_link_between_documents_has_a_target() {
    for document in documents() {
        let text = std::fs::read_to_string(root().join(&document)).unwrap();
        for target in
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
        {
            if !target.starts_with("http") {
                let path = root().join(&document).parent().unwrap().join(target);
                assert!(path.exists(), "{}: {target} does not exist", document.display());
            }
        }
    }
}

/// Number of rows of the tables in `docs/reference/inherited.md`: 97 tests and 54 defects.
const INHERITED: usize = 151;

/// The requirements ask for a counterpart of every test and of every defect of the original system.
#[test]
fn every_inherited_test_and_defect_has_a_counterpart_that_exists() {
    let document = root().join("docs/reference/inherited.md");
    let text = std::fs::read_to_string(document).unwrap();
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut missing = Vec::new();
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Claimed")) {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        rows += 1;
        if cell.starts_with("later: ") || cell.starts_with("not applicable: ") {
            continue;
        }
        let named: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no counterpart: {row}");
        for name in named {
            let (file, test) = name.split_once("::").unwrap_or((name, ""));
            let path = root().join(file);
            let exists = path.exists();
            let source = sources
                .entry(file.to_owned())
                .or_insert_with(|| std::fs::read_to_string(path).unwrap_or_default());
            if !exists || !(test.is_empty() || source.contains(&format!("fn {test}("))) {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "these do not exist:\n{}", missing.join("\n"));
    assert_eq!(rows, INHERITED, "rows of the tables");
}
