//! The command line: accepted arguments, output and exit codes.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use phase6_tests::{
    ApiKey, CommandResult, EXAMPLE, Fleet, Program, example_without, phase6, retuned, run_to_exit, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn usage_errors_exit_with_2_and_say_what_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let empty = folder.path().join("keys");
    std::fs::write(&empty, "# no key yet\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (arguments, expected) in [
        (vec!["up", "--redis", "http://user:secret@x", "--data", data], "accepted: redis://"),
        (vec!["up", "--only", "wob", "--data", data], "--only names wob; accepted: web, training"),
        (vec!["up", "--bind", "0.0.0.0", "--data", data], "requires API keys"),
        (
            vec!["up", "--database", "mysql://x", "--data", data],
            "accepted: sqlite://PATH of a file, or postgres://",
        ),
        (vec!["up", "--base-port", "0", "--data", data], "--base-port"),
        (vec!["up", "--frobnicate"], "--frobnicate"),
        (vec!["serve", "wob", "--data", data], "accepted: web, training"),
        (vec!["serve", "web", "--peer", "budget", "--data", data], "accepted: NAME=HOST:PORT"),
        (vec!["up", "--database", "sqlite::memory:", "--data", data], "accepted: sqlite://PATH of a file"),
        (
            vec!["up", "--api-keys", empty, "--data", data],
            "holds no key; create one with `phase6 keys create --file",
        ),
        (vec!["serve", "web", "--notice", "301", "--data", data], "0..=300"),
        (vec!["serve", "web", "--peer", "budget=http://127.0.0.1:3003", "--data", data], "NAME=HOST:PORT"),
        (vec!["serve", "web", "--peer", "budget=a b:1", "--data", data], "accepted: NAME=HOST:PORT"),
        (vec!["explain"], "--file"),
        (vec![], "Usage"),
    ] {
        let (code, errors) = run_to_exit(&arguments);
        assert!(code == Some(2) && errors.contains(expected), "{arguments:?}: {code:?} {errors}");
    }
}

#[test]
fn a_misspelled_variable_is_an_error_that_suggests_the_right_one() {
    for arguments in [vec!["up"], vec!["serve", "budget"]] {
        let mut program = Program::start(&arguments, &[("PHASE6_DATABSE_URL", "sqlite:///nowhere")]);
        assert_eq!(program.wait_for_exit(Duration::from_secs(10)), Some(2), "{arguments:?}");
        let expected = "error: PHASE6_DATABSE_URL is not a setting; did you mean PHASE6_DATABASE_URL?";
        assert_eq!(program.errors(), expected, "{arguments:?}");
    }
}

#[test]
fn every_invalid_setting_is_reported_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let settings = [("DAILY_BUDGET_LIMIT", "-1"), ("OPENAI_BASE_URL", "ftp://user:secret@host")];
    let mut program = Program::start(&["serve", "budget", "--port", "0", "--data", data], &settings);
    assert_eq!(program.wait_for_exit(Duration::from_secs(10)), Some(1));
    let errors = program.errors();
    assert!(
        errors.contains("DAILY_BUDGET_LIMIT is \"-1\"; accepted: a number of dollars from 0"),
        "{errors}"
    );
    assert!(errors.contains("OPENAI_BASE_URL is \"ftp://host\"; accepted: a URL"), "{errors}");
    assert!(!errors.contains("secret"), "{errors}");
}

#[test]
fn help_settings_lists_the_settings_of_a_service() {
    let CommandResult { code, output: listed, .. } = phase6(&["serve", "web", "--help-settings"]);
    assert_eq!(code, 0);
    let row = listed.lines().find(|line| line.starts_with("UPSTREAM_DEADLINE_MS")).unwrap();
    let columns: Vec<_> = row.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
    let (expected, meaning) = (["whole number of milliseconds from 1 to 55000", "50000"], columns[3]);
    assert!(columns[1..3] == expected && meaning.starts_with("Longest time"), "{listed}");
    assert!(listed.contains("PHASE6_INTERNAL_TOKEN") && !listed.contains("OPENAI_API_KEY"), "{listed}");
}

/// The parser of the command line quotes values that it rejects, which would print the password.
#[test]
fn a_database_password_is_never_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let url = "postgress://user:hunter2@db/phase6";
    for command in [vec!["up", "--data", data], vec!["serve", "budget", "--data", data]] {
        let mut with_option = command.clone();
        with_option.extend(["--database", url]);
        let as_option = Program::start(&with_option, &[]);
        let as_variable = Program::start(&command, &[("PHASE6_DATABASE_URL", url)]);
        for mut program in [as_option, as_variable] {
            assert_eq!(program.wait_for_exit(Duration::from_secs(10)), Some(2));
            let printed = format!("{}{}", program.output(), program.errors());
            assert!(printed.contains("accepted: sqlite://PATH") && !printed.contains("hunter2"), "{printed}");
        }
    }
}

/// Regression: `phase6 up | head -1` panicked at the next edit, the other commands at once.
#[tokio::test]
async fn a_closed_output_does_not_stop_the_program() {
    let with_closed_output = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(phase6_tests::program());
        command.args(arguments).current_dir(phase6_tests::root()).stdout(writer);
        command
    };
    for (arguments, code) in [
        (vec!["explain", "-f", "crds/examples/fleet.yaml"], 0),
        (vec!["completions", "bash"], 0),
        (vec!["keys", "list", "--file", "/dev/null"], 0),
        (vec!["status", "--base-port", "1"], 1),
    ] {
        let output = with_closed_output(&arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    }

    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("fleet.yaml"), folder.path().join("data"));
    std::fs::write(&file, EXAMPLE).unwrap();
    let port = phase6_tests::free_ports();
    let (reader, errors) = std::io::pipe().unwrap();
    drop(reader);
    let base_port = port.to_string();
    let arguments =
        ["-f", file.to_str().unwrap(), "--data", data.to_str().unwrap(), "--base-port", &base_port];
    let mut fleet = with_closed_output(&[&["up"], &arguments[..]].concat());
    let mut fleet = fleet.stderr(errors).spawn().unwrap();
    let http = phase6_tests::client();
    let policy = || async {
        let response = http.get(format!("http://127.0.0.1:{}/policyz", port + 3)).send().await.ok()?;
        response.json::<Value>().await.ok()
    };
    wait_until("budget responds", || async { policy().await.is_some() }).await;
    std::fs::write(&file, "kind: [").unwrap();
    wait_until("the error is reported", || async { policy().await.unwrap()["error"].is_string() }).await;
    std::fs::write(&file, retuned(EXAMPLE)).unwrap();
    wait_until("the edit is in force", || async { policy().await.unwrap()["revision"] == 2 }).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(fleet.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(fleet.wait().unwrap().code(), Some(0));
}

/// Regression: the program panicked.
#[test]
fn environment_variables_of_others_that_are_not_utf_8_are_ignored() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(phase6_tests::program())
        .args(["up", "--bind", "0.0.0.0", "--data", folder.path().to_str().unwrap()])
        .env("UNRELATED", std::ffi::OsStr::from_bytes(b"\xff\xfe"))
        .env(std::ffi::OsStr::from_bytes(b"\xfe"), "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && errors.contains("requires API keys"), "{errors}");
}

/// Regression: a selected service that no file declares was left out silently.
#[test]
fn only_rejects_services_that_no_file_declares() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, example_without("coach")).unwrap();
    let (file, data) = (file.to_str().unwrap(), folder.path().join("data"));
    let (code, errors) =
        run_to_exit(&["up", "-f", file, "--data", data.to_str().unwrap(), "--only", "web,coach"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(
        errors.contains("--only names coach, but no document declares it; declared: web, training"),
        "{errors}"
    );
}

/// Regression: the suggested commands named services that did not run, at addresses without a listener.
#[tokio::test]
async fn suggested_commands_work_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let alice = ApiKey::generate("alice", "reader");
    let keys = folder.path().join("keys");
    std::fs::write(&keys, &alice.line).unwrap();
    for (options, requests) in [
        (vec!["--only", "coach"], 1),
        (vec!["--only", "coach", "--bind", "127.0.0.2"], 1),
        (vec!["--only", "budget"], 1),
        (vec!["--only", "web,budget", "--bind", "0.0.0.0", "--api-keys", keys.to_str().unwrap()], 2),
    ] {
        let data = folder.path().join("data");
        let port = phase6_tests::free_ports().to_string();
        let mut arguments = vec!["up", "--data", data.to_str().unwrap(), "--base-port", &port];
        arguments.extend(&options);
        let mut program = Program::start(&arguments, &[]);
        program.wait_for_output(" status --base-port");
        let output = program.output();
        let first = if requests == 1 { "1 service ready in" } else { "2 services ready in" };
        assert!(output.contains(first), "{output}");
        let lines: Vec<_> = output.lines().filter(|line| line.starts_with("  ")).collect();
        assert_eq!(lines.len(), requests + 1, "{output}");
        for line in lines {
            let line = line.replace("curl -s", "curl -fs").replace("KEY'", &format!("{}'", alice.key));
            let result = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert!(result.status.success() && !result.stdout.is_empty(), "{line}: {result:?}");
        }
        program.signal(Signal::INT);
        assert_eq!(program.wait_for_exit(Duration::from_secs(10)), Some(0));
    }
}

#[test]
fn invalid_files_at_the_start_exit_with_1_and_report_every_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(
        &file,
        EXAMPLE.replace("capacity: 100\n", "capacity: 0\n").replace("service: meta", "service: mata"),
    )
    .unwrap();
    let (file, data) = (file.to_str().unwrap(), folder.path().join("data"));
    for command in [vec!["up", "-f", file, "--data", data.to_str().unwrap()], vec!["explain", "-f", file]] {
        let result = phase6(&command);
        assert_eq!((result.code, result.output.as_str()), (1, ""), "{command:?}");
        assert_eq!(result.errors.lines().count(), 2, "{}", result.errors);
        let expected = "`spec.service` is \"mata\"; accepted: one of web, training";
        assert!(result.errors.contains(expected), "{}", result.errors);
    }
}

#[test]
fn explain_shows_every_setting_and_its_source() {
    let result = phase6(&["explain", "-f", "crds/examples/fleet.yaml", "budget"]);
    assert_eq!(result.code, 0);
    let row = |setting: &str| {
        let line = result.output.lines().find(|line| line.starts_with(setting)).unwrap();
        line.split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("cache.ttl")[1], "5s");
    assert!(row("cache.ttl")[2..].join(" ").starts_with("line "));
    assert_eq!(row("cache.maxEntries"), ["cache.maxEntries", "10000", "default"]);
    assert_eq!(row("circuitBreaker.openFor"), ["circuitBreaker.openFor", "30s", "default"]);
    let result = phase6(&["explain", "-f", "crds/examples/fleet.yaml", "nobody"]);
    let expected = "no resource is named nobody; found: web, training";
    assert!(result.code == 1 && result.errors.contains(expected), "{result:?}");
}

#[test]
fn completions_are_printed_for_a_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let result = phase6(&["completions", shell]);
        assert!(result.code == 0 && result.output.contains("phase6"), "{shell}");
    }
}

#[tokio::test]
async fn status_shows_the_revision_that_each_service_enforces() {
    let fleet = Fleet::start();
    fleet.save(&retuned(EXAMPLE));
    fleet.program.wait_for_output("in force");
    let port = fleet.base_port.to_string();
    let result = phase6(&["status", "--base-port", &port]);
    assert_eq!(result.code, 0, "{result:?}");
    let row = |service: &str| {
        let line = result.output.lines().find(|line| line.starts_with(service)).unwrap();
        line.split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("budget")[2..4], ["yes", "2"]);
    assert_eq!(row("web")[2..4], ["yes", "1"]);
    assert_eq!(fleet.stop(), Some(0));
    let result = phase6(&["status", "--base-port", &port, "--only", "budget"]);
    assert!(result.code == 1 && result.output.contains("not running"), "{result:?}");
}
