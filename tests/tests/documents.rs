//! Every command in README and docs is run, prints what is written below it, and every test that a
//! document names exists.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use phase6_tests::{
    Program, free_ports,
    markdown::{Block, Command, blocks, documents},
    program, root,
};
use rustix::process::Signal;

/// Commands of developers, and which line of which file runs them. The others are run here.
const RUN_ELSEWHERE: [(&str, &str, &str); 19] = [
    ("cargo xtask test --without-cluster", "crates/xtask/src/test.rs", "Extent::WithoutCluster"),
    ("cargo xtask demo", "crates/xtask/src/test.rs", "demo::run()"),
    ("cargo xtask e2e", "crates/xtask/src/test.rs", "e2e::prepared("),
    // The same suite, at another count.
    ("cargo xtask prove", "crates/xtask/src/test.rs", "e2e::prepared("),
    ("cargo xtask image", "crates/xtask/src/e2e.rs", "image::phase6()?"),
    ("cargo xtask cluster up", "crates/xtask/src/e2e.rs", "cluster.up()?"),
    ("cargo xtask cluster down", "crates/xtask/src/test.rs", "cluster.down()"),
    ("cargo xtask cluster exec -- kubectl get nodes", "crates/xtask/src/demo.rs", "cluster.kubectl("),
    ("cargo xtask test", ".ci/run", "exec cargo xtask test"),
    ("cargo deny check", ".ci/run", "cargo deny --offline check"),
    ("cargo fmt --all --check", "crates/xtask/src/test.rs", r#"cargo(&["fmt", "--all", "--check"])"#),
    (
        "cargo clippy --workspace --all-targets -- -D warnings",
        "crates/xtask/src/test.rs",
        r#""clippy", "--workspace""#,
    ),
    ("cargo test --workspace", "crates/xtask/src/test.rs", r#""test", "--workspace""#),
    ("cargo xtask bench --smoke", "crates/xtask/src/test.rs", r#"cargo(&["xtask", "bench", "--smoke"])"#),
    // The same steps; the figures take minutes on an idle machine.
    ("cargo xtask bench", "crates/xtask/src/test.rs", r#"cargo(&["xtask", "bench", "--smoke"])"#),
    ("cargo xtask fuzz", "crates/xtask/src/test.rs", r#"cargo(&["xtask", "fuzz"])"#),
    ("cargo xtask instructions", "crates/xtask/src/test.rs", r#"cargo(&["xtask", "instructions"])"#),
    // The same counts, written instead of compared.
    ("cargo xtask instructions --accept", "crates/xtask/src/test.rs", r#"cargo(&["xtask", "instructions"])"#),
    ("cargo run --release -- up", "tests/tests/documents.rs", r#"["up", "--base-port""#),
];

/// Documents whose `kubectl` and `helm` commands are run in their order on a cluster, by
/// tests/e2e/cases/documents.rs.
const ON_CLUSTER: [&str; 2] = ["README.md", "docs/operating.md"];

fn needs_cluster(command: &str) -> bool {
    command.starts_with("kubectl ") || command.starts_with("helm ")
}

/// A reader's terminals: a fleet in one, commands in another, in a folder like a fresh clone.
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
        // Nobody listens on port 1, so no provider answers, whatever runs on this machine.
        let nobody = "http://127.0.0.1:1/v1";
        let fleet = Program::start_in(
            folder.path(),
            &["up", "--base-port", &base_port.to_string()],
            &[
                ("OLLAMA_ENABLED", "true"),
                ("OLLAMA_BASE_URL", nobody),
                ("LOCALAI_ENABLED", "true"),
                ("LOCALAI_BASE_URL", nobody),
            ],
        );
        fleet.hear("Try in another terminal");
        Self { folder, base_port, fleet }
    }

    /// Runs a command as a reader would; what it prints.
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
        assert!(output.status.success(), "{}: {text}: {errors}", command.place);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Follows a document from top to bottom.
    fn follow(&self, document: &str) {
        for block in blocks(Path::new(document)) {
            match block.kind.as_str() {
                "console" => self.check(&block),
                "text" => self.hear(&block.lines, &block.place),
                _ => {}
            }
        }
    }

    fn check(&self, block: &Block) {
        for command in block.commands() {
            if command.text == "cargo run --release -- up" {
                self.hear(&command.prints, &command.place);
            } else if needs_cluster(&command.text) {
                // tests/e2e/cases/documents.rs runs it.
            } else if !RUN_ELSEWHERE.iter().any(|(text, ..)| *text == command.text) {
                let printed = self.run(&command);
                assert!(
                    !printed.is_empty() || command.text.starts_with("sed "),
                    "{} prints nothing",
                    command.text
                );
                let missing = missing(&command.prints, &printed, self);
                assert_eq!(missing, None, "{}: {} printed\n{printed}", command.place, command.text);
            }
        }
    }

    /// Waits until the fleet has said these lines.
    fn hear(&self, lines: &[String], place: &str) {
        let due = Instant::now() + Duration::from_secs(10);
        while let Some(line) = missing(lines, &self.fleet.said(), self) {
            assert!(
                Instant::now() < due,
                "{place}: the fleet never said {line:?}, but\n{}",
                self.fleet.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The first line that is written and not printed, in the order in which they are written. Figures
/// and hashes count as equal to any other.
fn missing(written: &[String], printed: &str, session: &Session) -> Option<String> {
    let port = format!(" --base-port {}", session.base_port);
    let printed = printed.replace(program().to_str().unwrap(), "target/release/phase6").replace(&port, "");
    let mut printed = printed.lines().map(shape);
    written.iter().find(|line| !printed.any(|printed| printed == shape(line))).cloned()
}

/// A line without what differs from one run to the next.
fn shape(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut shape = String::new();
    for part in words.join(" ").split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            shape.push('#');
        } else {
            let mut digits = false;
            for c in word.chars() {
                if !c.is_ascii_digit() {
                    shape.push(c);
                } else if !digits {
                    shape.push('#');
                }
                digits = c.is_ascii_digit();
            }
        }
        shape.push_str(&part[word.len()..]);
    }
    shape
}

#[test]
fn figures_and_hashes_do_not_matter_and_words_do() {
    assert_eq!(shape("revision  2 is 0d4d40f5a5b8, 1.5s"), shape("revision 14 is aaaabbbbcccc, 20.25s"));
    assert_ne!(shape("capacity 100 -> 3"), shape("refill 100 -> 3"));
}

#[test]
fn the_session_of_the_readme_goes_as_written() {
    let mut session = Session::start();
    session.follow("README.md");
    session.fleet.signal(Signal::INT);
    assert_eq!(session.fleet.end(Duration::from_secs(10)), Some(0));
}

#[test]
fn the_commands_about_running_do_what_they_say() {
    let session = Session::start();
    session.follow("docs/running.md");
}

#[test]
fn the_remaining_commands_of_developers_work() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for (arguments, says) in
        [(vec!["xtask", "crd"], "is up to date"), (vec!["test", "-p", "phase6-policy"], "test result: ok")]
    {
        let output =
            std::process::Command::new(&cargo).args(&arguments).current_dir(root()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(says), "{arguments:?}: {said}");
    }
}

#[test]
fn every_command_in_the_documents_is_run_by_a_test() {
    let here = ["cargo xtask crd", "cargo test -p phase6-policy"];
    let followed = ["README.md", "docs/running.md"];
    for document in documents() {
        for block in blocks(&document) {
            let place = &block.place;
            assert!(
                ["console", "text"].contains(&block.kind.as_str()),
                "{place}: commands go into `console` blocks"
            );
            if block.kind == "text" {
                continue;
            }
            for command in block.commands() {
                let by = RUN_ELSEWHERE.iter().find(|(text, ..)| *text == command.text);
                let runs = by.is_some()
                    || here.contains(&command.text.as_str())
                    || (needs_cluster(&command.text)
                        && ON_CLUSTER.map(Path::new).contains(&document.as_path()))
                    || followed.iter().any(|followed| document == Path::new(followed));
                assert!(runs, "{place}: nothing runs {:?}", command.text);
                if let Some((_, file, line)) = by {
                    let text = std::fs::read_to_string(root().join(file)).unwrap();
                    // Formatting breaks long lines.
                    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    assert!(joined.contains(line), "{file} does not run {:?}", command.text);
                }
            }
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
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

/// The issue that built this asked for a counterpart of every test and every defect of the system
/// before it.
#[test]
fn every_inherited_test_and_defect_has_a_counterpart_that_exists() {
    let document = root().join("docs/reference/inherited.md");
    let text = std::fs::read_to_string(document).unwrap();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut rows = 0;
    let cells = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Claimed"));
    for row in cells {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        rows += 1;
        if cell.starts_with("later: ") {
            continue;
        }
        let named: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no counterpart: {row}");
        for name in named {
            let (file, test) = name.split_once("::").unwrap_or((name, ""));
            let path = root().join(file);
            let source = files.entry(file.to_owned()).or_insert_with(|| {
                std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{file} does not exist"))
            });
            assert!(test.is_empty() || source.contains(&format!("fn {test}(")), "{file} has no test {test}");
        }
    }
    assert_eq!(rows, INHERITED, "rows of the tables");
}

/// 97 tests and 54 defects.
const INHERITED: usize = 151;
