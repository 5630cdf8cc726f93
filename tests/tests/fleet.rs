//! A fleet from a YAML file: start, edits, invalid edits, stop.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use phase6_catalog::Service;
use phase6_tests::{
    ApiKey, EXAMPLE, Fleet, Program, example_without, phase6, policy_document, retuned, services, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longest time from the save of a file to the line that reports it as in force.
const EDIT_LIMIT: Duration = Duration::from_millis(250);

#[tokio::test]
async fn all_eight_services_respond_and_the_output_has_their_addresses_and_settings() {
    let fleet = Fleet::start();
    let first = fleet.program.wait_for_output("services ready").text;
    let seconds: f64 = first
        .split_whitespace()
        .find_map(|word| word.parse().ok().filter(|n: &f64| n.fract() != 0.0))
        .unwrap();
    let expected = format!("{} services ready", services().count());
    assert!(first.contains(&expected) && seconds < 2.0, "{first}");
    fleet.program.wait_for_output("phase6 status");
    let output = fleet.program.output();
    for service in services() {
        assert!(output.contains(&format!("http://127.0.0.1:{}", fleet.port(service))), "{service}: {output}");
        for path in [
            "/livez",
            "/readyz",
            "/health",
            "/metrics",
            "/policyz",
            "/openapi.json",
            "/api/v1/status",
            "/api/v1/system/observability",
        ] {
            let (status, _) = fleet.get(service, path).await;
            assert_eq!(status, 200, "{service}{path}");
        }
    }
    for part in [
        "SERVICE",
        "LIMIT",
        "TTL",
        "SAMPLING",
        "REPLICAS",
        "1000 @ 100/s per client",
        "5s",
        "20%",
        "fleet.yaml",
        "curl ",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn services_without_a_domain_say_so_and_report_no_invented_figures() {
    let fleet = Fleet::start();
    for service in services() {
        let (_, description) = fleet.get(service, "/openapi.json").await;
        let prefixes = Service::find(service).unwrap().prefixes;
        let is_own = |path: &String| prefixes.iter().any(|prefix| path.starts_with(prefix));
        let is_built = service == "web" || description["paths"].as_object().unwrap().keys().any(is_own);
        let (_, status) = fleet.get(service, "/api/v1/status").await;
        assert_eq!(status["domain"], if is_built { "built" } else { "not built" }, "{service}");
        let (_, report) = fleet.get(service, "/api/v1/system/observability").await;
        assert_eq!(report["service"], format!("{service}-server"));
        for part in ["tracer", "circuitBreakers", "cache", "rateLimiter", "database", "policy"] {
            assert!(report[part].is_object(), "{service} {part}: {report}");
        }
        let tracer = &report["tracer"];
        for figure in [
            "activeTraces",
            "totalTraces",
            "avgLatency",
            "p99Latency",
            "throughput",
            "errorRate",
            "samplingRate",
        ] {
            assert!(tracer[figure].is_number(), "{service} {figure}: {tracer}");
        }
        assert!(tracer["spans"].is_array());
        let breakers = report["circuitBreakers"].as_object().unwrap();
        // No provider has a key here, so only the gateway has peers.
        let peers = Service::find(service).unwrap().peers().count();
        let peers = if service == "web" { peers } else { 0 };
        assert_eq!(breakers.len(), peers, "{service} has breakers that never see a call");
        let is_limited = ["web", "budget"].contains(&service);
        let is_cached = ["budget", "reports"].contains(&service);
        for (part, in_use) in [("rateLimiter", is_limited), ("cache", is_cached)] {
            assert_eq!(report[part].as_object().unwrap().is_empty(), !in_use, "{service} {part}: {report}");
        }
    }
    assert_eq!(fleet.stop(), Some(0));
}

/// Begins a request to `budget` whose body is incomplete, and waits until it is in flight.
async fn begin_request(fleet: &Fleet) -> std::net::TcpStream {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", fleet.port("budget"))).unwrap();
    socket.write_all(b"POST /api/v1/budget/can-afford HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"coho").unwrap();
    wait_until("the request is in flight", || async {
        let (_, metrics) = fleet.get("budget", "/metrics").await;
        metrics.as_str().unwrap().contains("phase6_http_requests_in_flight{service=\"budget\"} 2")
    })
    .await;
    socket
}

/// Sends the rest of the request, and returns its response.
fn finish_request(mut socket: std::net::TcpStream) -> String {
    socket.write_all(b"rtId\":\"c\"}").unwrap();
    let mut response = String::new();
    std::io::Read::read_to_string(&mut socket, &mut response).unwrap();
    response
}

/// Waits for a line of output. Returns the time since the newest save of the fleet's file.
fn time_from_save_to_output(fleet: &Fleet, line: &str) -> Duration {
    fleet.program.wait_for_output(line);
    let saved = std::fs::metadata(&fleet.file).unwrap().modified().unwrap();
    SystemTime::now().duration_since(saved).unwrap()
}

async fn revision(fleet: &Fleet, service: &str) -> u64 {
    fleet.get(service, "/policyz").await.1["revision"].as_u64().unwrap()
}

#[tokio::test]
async fn an_edit_is_in_force_and_reported_within_250_ms_of_the_save() {
    let fleet = Fleet::start();
    fleet.save(&retuned(EXAMPLE));
    let line = "budget: cache.ttl 5s -> 2s, rateLimit.capacity 100 -> 3; in force";
    let delay = time_from_save_to_output(&fleet, line);
    assert!(delay < EDIT_LIMIT, "{delay:?}");
    assert_eq!(revision(&fleet, "budget").await, 2);
    assert_eq!(revision(&fleet, "web").await, 1, "other services are unchanged");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn a_save_by_rename_takes_effect() {
    let fleet = Fleet::start();
    let temporary = fleet.folder.path().join(".fleet.yaml.tmp");
    for (text, line) in [(retuned(EXAMPLE), "capacity 100 -> 3"), (EXAMPLE.to_owned(), "capacity 3 -> 100")] {
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(&temporary, &fleet.file).unwrap();
        fleet.program.wait_for_output(line);
    }
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn an_incomplete_file_is_not_applied() {
    let fleet = Fleet::start();
    let text = retuned(EXAMPLE);
    let half = text.find("name: meta").unwrap();
    let mut file = std::fs::File::create(&fleet.file).unwrap();
    file.write_all(&text.as_bytes()[..half]).unwrap();
    file.flush().unwrap();
    // Longer than an edit takes to be in force.
    tokio::time::sleep(Duration::from_millis(400)).await;
    for service in services() {
        assert_eq!(fleet.get(service, "/readyz").await.0, 200, "{service} stopped");
    }
    file.write_all(&text.as_bytes()[half..]).unwrap();
    drop(file);
    fleet.program.wait_for_output("capacity 100 -> 3");
    assert!(!fleet.program.output().contains("stops after its requests"), "{}", fleet.program.output());
    assert_eq!(fleet.stop(), Some(0));
}

/// Regression: a writer that paused for more than two seconds ended the services whose documents it had not
/// written yet.
#[tokio::test]
async fn a_service_stops_once_its_document_is_removed_but_not_while_the_file_is_being_written() {
    let fleet = Fleet::start();
    let text = retuned(EXAMPLE).replace("service: capabilities\n", "service: capabilities\n  replicas: 3\n");
    let half = text.match_indices("---\n").nth(3).unwrap().0;
    let mut file = std::fs::File::create(&fleet.file).unwrap();
    file.write_all(&text.as_bytes()[..half]).unwrap();
    fleet.program.wait_for_output("coach: missing while its file is being written; it keeps running");
    fleet.program.wait_for_output("capacity 100 -> 3");
    for service in services() {
        assert_eq!(fleet.get(service, "/readyz").await.0, 200, "{service} stopped");
    }
    file.write_all(&text.as_bytes()[half..]).unwrap();
    drop(file);
    fleet
        .program
        .wait_for_output("capabilities: replicas, image and resources take effect in a cluster only");
    assert!(!fleet.program.output().contains("stops after its requests"), "{}", fleet.program.output());
    fleet.save(&text[..half]);
    fleet.program.wait_for_output("coach: removed from the file; it stops after its requests");
    assert_eq!(fleet.stop(), Some(0));
}

/// Regression: only a poll every two seconds noticed the edit.
#[tokio::test]
async fn an_edit_of_a_file_behind_a_symbolic_link_is_in_force_within_250_ms() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (target, folder) = (elsewhere.path().join("of-the-team.yaml"), tempfile::tempdir().unwrap());
    std::fs::write(&target, EXAMPLE.split("---\n").nth(1).unwrap()).unwrap();
    let link = folder.path().join("training.yaml");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let fleet = Fleet::with(&example_without("training"), &["-f", link.to_str().unwrap()], &[]);
    let changed = std::fs::read_to_string(&target).unwrap().replace("0.15", "0.5");
    std::fs::write(&target, changed).unwrap();
    let line = fleet.program.wait_for_output("training: tracing.samplingRate 0.15 -> 0.5");
    let since_save = std::fs::metadata(&target).unwrap().modified().unwrap().elapsed().unwrap();
    let delay = since_save.saturating_sub(line.time.elapsed());
    assert!(delay < EDIT_LIMIT, "{delay:?}");
    assert_eq!(fleet.stop(), Some(0));
}

/// Regression: a save between the first read of a file and the start of its watch was never noticed. Here the
/// save happens during the first read, from a pipe that stays open.
#[tokio::test]
async fn a_save_during_the_first_read_is_not_missed() {
    let policy = |revision| policy_document(revision, 1, &json!({}));
    let web = EXAMPLE.split("---\n").next().unwrap();
    for (command, option, before, after) in [
        (vec!["serve", "web"], "--policy", policy(1), policy(2)),
        (vec!["up"], "-f", web.to_owned(), web.replace("capacity: 1000\n", "capacity: 900\n")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (file, data) = (folder.path().join("file"), folder.path().join("data"));
        let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success());
        let port = phase6_tests::free_ports().to_string();
        let port_option = if command[0] == "up" { "--base-port" } else { "--port" };
        let mut arguments = command.clone();
        arguments.extend([option, file.to_str().unwrap(), "--data", data.to_str().unwrap()]);
        arguments.extend([port_option, &port]);
        let mut program = Program::start(&arguments, &[]);
        // A pipe opens for writing once the program has opened it for reading.
        let (pipe, first) = (file.clone(), before.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(pipe).unwrap();
            pipe.write_all(first.as_bytes()).unwrap();
            pipe
        });
        let pipe = tokio::time::timeout(Duration::from_secs(20), opening).await.unwrap().unwrap();
        let new = folder.path().join("new");
        std::fs::write(&new, after).unwrap();
        std::fs::rename(&new, &file).unwrap();
        drop(pipe);
        let http = phase6_tests::client();
        wait_until("the save is in force", || async {
            let response = http.get(format!("http://127.0.0.1:{port}/policyz")).send().await.ok();
            let Some(response) = response else { return false };
            response.json::<Value>().await.is_ok_and(|policy| policy["revision"] == 2)
        })
        .await;
        program.signal(Signal::TERM);
        assert_eq!(program.wait_for_exit(Duration::from_secs(10)), Some(0));
    }
}

#[tokio::test]
async fn used_tokens_cached_entries_and_connections_survive_an_edit() {
    // A refill so slow that no token comes back during the test, however slow the machine.
    let text = EXAMPLE.replace("refillPerSecond: 10\n", "refillPerSecond: 0.001\n");
    let fleet = Fleet::with(&text, &[], &[]);
    let get = || async {
        let response = fleet.http.get(fleet.url("budget", "/api/v1/budget")).send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
        (response.status().as_u16(), header("cache-status"), header("phase6-policy"))
    };
    let accepted_connections = || async {
        let (_, report) = fleet.get("budget", "/api/v1/system/observability").await;
        report["connections"]["accepted"].clone()
    };
    assert_eq!(get().await.1, "budget; fwd=uri-miss; stored");
    assert_eq!(get().await.0, 200);
    let before = accepted_connections().await;
    // Three tokens are used; the new limit has four.
    fleet.save(&text.replace("capacity: 100\n", "capacity: 4\n"));
    fleet.program.wait_for_output("rateLimit.capacity 100 -> 4");
    let (status, cache, revision) = get().await;
    assert!(
        status == 200 && cache.starts_with("budget; hit") && revision == "2",
        "{status} {cache} {revision}"
    );
    assert_eq!(get().await.0, 429, "tokens used before the edit still count");
    let (_, policy) = fleet.get("budget", "/policyz").await;
    assert_eq!(policy["revision"], 2);
    fleet.save(&text);
    fleet.program.wait_for_output("rateLimit.capacity 4 -> 100");
    assert_eq!(accepted_connections().await, before, "every request used the same connection");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn an_edit_does_not_disturb_requests_in_flight() {
    let fleet = Fleet::start();
    let mut events = fleet.http.get(fleet.url("budget", "/api/v1/providers/realtime")).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    fleet.save(&retuned(EXAMPLE));
    fleet.program.wait_for_output("in force");
    let next = tokio::time::timeout(Duration::from_secs(8), events.chunk()).await.unwrap();
    assert!(next.unwrap().is_some(), "the stream ended");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn invalid_edits_are_reported_together_and_the_last_policy_stays_in_force() {
    let fleet = Fleet::start();
    fleet.save(
        &EXAMPLE
            .replace("capacity: 100\n", "capacity: -5\n")
            .replace("ttl: 5s", "ttl: 5 sec")
            .replace("samplingRate: 0.20", "samplingRate: 20"),
    );
    fleet.program.wait_for_output("3 errors; the last valid policy stays in force:");
    for error in [
        "document 3 (meta): `spec.tracing.samplingRate` is 20; accepted: a number from 0 to 1",
        "document 4 (budget): `spec.cache.ttl` is \"5 sec\"; accepted: a duration from 0s to 24h, such as 500ms, 5s, 1m30s or 2h",
        "document 4 (budget): `spec.rateLimit.capacity` is -5; accepted: an integer from 1 to 1000000",
    ] {
        let line = fleet.program.wait_for_output(error).text;
        assert!(line.contains("fleet.yaml:"), "{line}");
    }
    let (_, policy) = fleet.get("budget", "/policyz").await;
    assert_eq!(policy["revision"], 1);
    assert!(policy["error"].as_str().unwrap().contains("rateLimit.capacity` is -5"), "{policy}");
    assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    let port = fleet.base_port.to_string();
    let result = phase6(&["status", "--base-port", &port]);
    assert!(result.code == 1 && result.output.contains("samplingRate` is 20"), "{result:?}");

    for invalid in [
        "kind: [",
        "\u{0}\u{1}",
        "",
        "kind: Phase6Service",
        "- a\n- b",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: x}",
    ] {
        fleet.save(invalid);
        wait_until("the error is reported", || async {
            fleet.get("web", "/policyz").await.1["error"].is_string()
        })
        .await;
    }
    fleet.save(EXAMPLE);
    wait_until("the error is gone", || async { fleet.get("web", "/policyz").await.1["error"].is_null() })
        .await;
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn the_service_of_a_resource_cannot_be_changed_in_place() {
    let fleet = Fleet::start();
    fleet.save(
        &EXAMPLE
            .replace("service: meta", "service: web")
            .replace("  name: web\nspec:\n  service: web", "  name: web\nspec:\n  service: meta"),
    );
    fleet.program.wait_for_output("service cannot be changed");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn removing_a_document_drains_its_service_and_adding_one_starts_it() {
    let fleet = Fleet::start();
    let mut events = fleet.http.get(fleet.url("budget", "/api/v1/providers/realtime")).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    fleet.save(&example_without("budget"));
    fleet.program.wait_for_output("budget: removed from the file; it stops after its requests");
    // The stream learns that the service stops, and ends without an error.
    while events.chunk().await.unwrap().is_some() {}
    let line = fleet.program.wait_for_output("budget: stopped").text;
    assert_eq!(line, "budget: stopped");
    assert_eq!(fleet.get("budget", "/readyz").await.0, 0, "the port is still open");
    assert_eq!(fleet.get("web", "/readyz").await.0, 200);
    fleet.save(EXAMPLE);
    fleet.program.wait_for_output("budget: started at http://127.0.0.1:");
    assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    assert_eq!(fleet.stop(), Some(0));
}

/// Regression: the fleet waited for a draining service that was added again, and reacted to nothing meanwhile.
#[tokio::test]
async fn edits_and_ctrl_c_take_effect_while_a_service_drains() {
    let mut fleet = Fleet::start();
    let request = begin_request(&fleet).await;
    fleet.save(&example_without("budget"));
    fleet.program.wait_for_output("budget: removed from the file; it stops after its requests");
    fleet.save(EXAMPLE);
    fleet.program.wait_for_output("budget: starts once its port is free");
    fleet.save(&EXAMPLE.replace("capacity: 1000\n", "capacity: 900\n"));
    let delay = time_from_save_to_output(&fleet, "web: rateLimit.capacity 1000 -> 900; in force");
    assert!(delay < EDIT_LIMIT, "{delay:?}");
    assert!(!fleet.program.output().contains("budget: stopped"), "{}", fleet.program.output());
    let response = finish_request(request);
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    fleet.program.wait_for_output("budget: stopped");
    fleet.program.wait_for_output("budget: started at http://127.0.0.1:");
    wait_until("budget serves again", || async { fleet.get("budget", "/api/v1/budget").await.0 == 200 })
        .await;

    let _unfinished = begin_request(&fleet).await;
    fleet.save(&example_without("budget"));
    wait_until("budget stops", || async { fleet.get("budget", "/readyz").await.0 == 0 }).await;
    fleet.save(EXAMPLE);
    let waits = "budget: starts once its port is free";
    wait_until("budget waits for its port", || async { fleet.program.output().matches(waits).count() == 2 })
        .await;
    let start = Instant::now();
    fleet.program.signal(Signal::INT);
    fleet.program.wait_for_output("stopping: finishing the requests in flight");
    fleet.program.signal(Signal::INT);
    assert_eq!(fleet.program.wait_for_exit(Duration::from_secs(5)), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2));
    fleet.program.wait_for_output("stopped at once");
}

/// Regression: the line that a service had stopped came before the line that it stops.
#[tokio::test]
async fn events_of_a_renamed_document_are_reported_in_order() {
    let fleet = Fleet::start();
    fleet.save(&EXAMPLE.replace("name: coach\n", "name: trainer\n"));
    fleet.program.wait_for_output("trainer: started at http://127.0.0.1:");
    let output = fleet.program.output();
    let position = |line: &str| output.find(line).unwrap_or_else(|| panic!("no line {line:?}: {output}"));
    let order = [
        position("coach: removed from the file; it stops after its requests"),
        position("coach: stopped"),
        position("trainer: started at"),
    ];
    assert!(order.is_sorted(), "{output}");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn the_first_ctrl_c_drains_and_the_second_one_aborts() {
    let fleet = Fleet::start();
    assert_eq!(fleet.stop(), Some(0));

    let mut fleet = Fleet::start();
    let _unfinished = begin_request(&fleet).await;
    fleet.program.signal(Signal::INT);
    fleet.program.wait_for_output("stopping");
    fleet.program.signal(Signal::INT);
    let start = Instant::now();
    assert_eq!(fleet.program.wait_for_exit(Duration::from_secs(5)), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish() {
    let mut fleet = Fleet::start();
    let request = begin_request(&fleet).await;
    fleet.program.signal(Signal::TERM);
    fleet.program.wait_for_output("stopping");
    let response = finish_request(request);
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert_eq!(fleet.program.wait_for_exit(Duration::from_secs(10)), Some(0));
    assert!(fleet.program.output().ends_with("\nstopped"), "{}", fleet.program.output());
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_a_remedy() {
    let fleet = Fleet::start();
    let folder = tempfile::tempdir().unwrap();
    let port = fleet.base_port.to_string();
    let result = phase6(&["up", "--base-port", &port, "--data", folder.path().to_str().unwrap()]);
    assert_eq!(result.code, 1);
    for service in services() {
        let line = format!(
            "{service}: 127.0.0.1:{} is in use by another process; choose other ports with --base-port N",
            fleet.port(service)
        );
        assert!(result.errors.contains(&line), "{}", result.errors);
    }
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn only_runs_the_selected_services() {
    let fleet = Fleet::with(EXAMPLE, &["--only", "web,budget"], &[]);
    assert!(fleet.program.output().contains("2 services ready"));
    assert_eq!(fleet.get("budget", "/readyz").await.0, 200);
    assert_eq!(fleet.get("meta", "/readyz").await.0, 0);
    let (_, status) = fleet.get("web", "/system/status").await;
    assert_eq!(
        (&status["services"]["budget"], &status["services"]["meta"]),
        (&Value::from(true), &Value::from(false))
    );
    fleet.save(&retuned(EXAMPLE));
    fleet.program.wait_for_output("capacity 100 -> 3");
    assert!(!fleet.program.output().contains("meta: started"), "an edit started another service");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn several_files_and_folders_make_one_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let parts: Vec<&str> = EXAMPLE.split("---\n").collect();
    std::fs::create_dir(folder.path().join("more")).unwrap();
    std::fs::write(folder.path().join("more/a.yaml"), parts[1]).unwrap();
    std::fs::write(folder.path().join("more/b.yml"), parts[2]).unwrap();
    std::fs::write(folder.path().join("more/notes.txt"), "not YAML: [").unwrap();
    let more = folder.path().join("more");
    let fleet = Fleet::with(parts[0], &["-f", more.to_str().unwrap()], &[]);
    assert!(fleet.program.output().contains("3 services ready"), "{}", fleet.program.output());
    std::fs::write(more.join("a.yaml"), parts[1].replace("0.15", "0.5")).unwrap();
    fleet.program.wait_for_output("training: tracing.samplingRate 0.15 -> 0.5");
    std::fs::write(more.join("c.yaml"), parts[3]).unwrap();
    fleet.program.wait_for_output("budget: started at");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn a_fleet_on_all_interfaces_admits_only_requests_with_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let ApiKey { key, line } = ApiKey::generate("alice", "reader");
    let keys = folder.path().join("keys");
    std::fs::write(&keys, line).unwrap();
    let fleet = Fleet::with(EXAMPLE, &["--bind", "0.0.0.0", "--api-keys", keys.to_str().unwrap()], &[]);
    for service in ["budget", "web"] {
        let path = "/api/v1/budget";
        assert_eq!(fleet.get(service, path).await.0, 401, "{service}");
        assert_eq!(fleet.get(service, "/readyz").await.0, 200);
        for (name, value, expected) in [
            ("authorization", format!("Bearer {key}"), 200),
            ("x-api-key", key.clone(), 200),
            ("x-api-key", format!("{key}x"), 401),
            ("phase6-internal", "0123456789abcdef".to_owned(), 401),
        ] {
            let request = fleet.http.get(fleet.url(service, path)).header(name, &value);
            assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "{service} {name}");
        }
    }
    let logs = format!("{}{}", fleet.program.output(), fleet.program.errors());
    assert!(!logs.contains(&key), "a log contains the key");
    assert_eq!(fleet.stop(), Some(0));
}
