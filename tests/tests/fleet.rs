//! The fleet on a laptop, from its YAML: start, retune, nonsense, stop.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use phase6_tests::{EXAMPLE, Fleet, Program, phase6, retuned, services, until, without};
use rustix::process::Signal;
use serde_json::Value;

#[tokio::test]
async fn all_eight_answer_and_the_session_tells_where_and_how() {
    let fleet = Fleet::start();
    let said = fleet.program.said();
    let (_, first) = fleet.program.hear("services ready");
    let seconds: f64 = first
        .split_whitespace()
        .find_map(|word| word.parse().ok().filter(|n: &f64| n.fract() != 0.0))
        .unwrap();
    assert!(first.contains("8 services ready") && seconds < 2.0, "{first}");
    fleet.program.hear("phase6 status");
    let said = format!("{said}{}", fleet.program.said());
    for service in services() {
        assert!(said.contains(&format!("http://127.0.0.1:{}", fleet.port(service))), "{service}: {said}");
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
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn services_without_their_domain_say_so_and_invent_nothing() {
    let fleet = Fleet::start();
    for service in services() {
        let built = ["web", "budget"].contains(&service);
        let (_, status) = fleet.get(service, "/api/v1/status").await;
        assert_eq!(status["domain"], if built { "built" } else { "not built" }, "{service}");
        let (_, shown) = fleet.get(service, "/api/v1/system/observability").await;
        assert_eq!(shown["service"], format!("{service}-server"));
        for part in ["tracer", "circuitBreakers", "cache", "rateLimiter", "database", "policy"] {
            assert!(shown[part].is_object(), "{service} {part}: {shown}");
        }
        let tracer = &shown["tracer"];
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
        let breakers = shown["circuitBreakers"].as_object().unwrap();
        assert_eq!(
            breakers.len(),
            match service {
                "web" => 7,
                // No provider has a key here.
                _ => 0,
            },
            "none that never sees a call"
        );
        let (limited, cached) =
            (["web", "budget"].contains(&service), ["budget", "reports"].contains(&service));
        for (part, in_use) in [("rateLimiter", limited), ("cache", cached)] {
            assert_eq!(shown[part].as_object().unwrap().is_empty(), !in_use, "{service} {part}: {shown}");
        }
    }
    assert_eq!(fleet.stop(), Some(0));
}

/// A request to `budget` of which the end is still to come.
async fn half_a_request(fleet: &Fleet) -> std::net::TcpStream {
    let mut slow = std::net::TcpStream::connect(("127.0.0.1", fleet.port("budget"))).unwrap();
    slow.write_all(b"POST /api/v1/budget/can-afford HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"coho").unwrap();
    until("it is under way", || async {
        let (_, figures) = fleet.get("budget", "/metrics").await;
        figures.as_str().unwrap().contains("phase6_http_requests_in_flight{service=\"budget\"} 2")
    })
    .await;
    slow
}

/// Finishes it; the answer.
fn other_half(mut slow: std::net::TcpStream) -> String {
    slow.write_all(b"rtId\":\"c\"}").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut slow, &mut answer).unwrap();
    answer
}

/// Milliseconds from the newest save of the fleet's file until `line` was said.
fn said_after_save(fleet: &Fleet, line: &str) -> u128 {
    fleet.program.hear(line);
    let saved = std::fs::metadata(&fleet.file).unwrap().modified().unwrap();
    SystemTime::now().duration_since(saved).unwrap().as_millis()
}

async fn revision(fleet: &Fleet, service: &str) -> u64 {
    fleet.get(service, "/policyz").await.1["revision"].as_u64().unwrap()
}

#[tokio::test]
async fn an_edit_is_in_force_within_250_ms_of_the_save_and_told() {
    let fleet = Fleet::start();
    fleet.save(&retuned(EXAMPLE));
    let told = said_after_save(&fleet, "budget: cache.ttl 5s -> 2s, rateLimit.capacity 100 -> 3; in force");
    assert!(told < 250, "{told} ms");
    assert_eq!(revision(&fleet, "budget").await, 2);
    assert_eq!(revision(&fleet, "web").await, 1, "nobody else was touched");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn a_save_by_rename_works() {
    let fleet = Fleet::start();
    let temporary = fleet.folder.path().join(".fleet.yaml.tmp");
    for (text, line) in [(retuned(EXAMPLE), "capacity 100 -> 3"), (EXAMPLE.to_owned(), "capacity 3 -> 100")] {
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(&temporary, &fleet.file).unwrap();
        fleet.program.hear(line);
    }
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn a_half_written_file_does_not_matter() {
    let fleet = Fleet::start();
    let text = retuned(EXAMPLE);
    let half = text.find("name: meta").unwrap();
    let mut file = std::fs::File::create(&fleet.file).unwrap();
    file.write_all(&text.as_bytes()[..half]).unwrap();
    file.flush().unwrap();
    // Longer than an edit takes to be in force.
    tokio::time::sleep(Duration::from_millis(400)).await;
    for service in services() {
        assert_eq!(fleet.get(service, "/readyz").await.0, 200, "{service} still runs");
    }
    file.write_all(&text.as_bytes()[half..]).unwrap();
    drop(file);
    fleet.program.hear("capacity 100 -> 3");
    assert!(!fleet.program.said().contains("stops after its requests"), "{}", fleet.program.said());
    assert_eq!(fleet.stop(), Some(0));
}

/// A pause of more than two seconds ended the services whose documents were still to come.
#[tokio::test]
async fn a_writer_that_pauses_stops_no_service_and_one_that_has_finished_does() {
    let fleet = Fleet::start();
    let text = retuned(EXAMPLE).replace("service: capabilities\n", "service: capabilities\n  replicas: 3\n");
    let half = text.match_indices("---\n").nth(3).unwrap().0;
    let mut file = std::fs::File::create(&fleet.file).unwrap();
    file.write_all(&text.as_bytes()[..half]).unwrap();
    fleet.program.hear("coach: missing while its file is being written; it keeps running");
    fleet.program.hear("capacity 100 -> 3");
    for service in services() {
        assert_eq!(fleet.get(service, "/readyz").await.0, 200, "{service} still runs");
    }
    file.write_all(&text.as_bytes()[half..]).unwrap();
    drop(file);
    fleet.program.hear("capabilities: replicas, image and resources take effect in a cluster only");
    assert!(!fleet.program.said().contains("stops after its requests"), "{}", fleet.program.said());
    fleet.save(&text[..half]);
    fleet.program.hear("coach: removed from the file; it stops after its requests");
    assert_eq!(fleet.stop(), Some(0));
}

/// Only a look every two seconds found it.
#[tokio::test]
async fn a_file_behind_a_link_is_followed_as_quickly() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (target, folder) = (elsewhere.path().join("of-the-team.yaml"), tempfile::tempdir().unwrap());
    std::fs::write(&target, EXAMPLE.split("---\n").nth(1).unwrap()).unwrap();
    let link = folder.path().join("training.yaml");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let fleet = Fleet::with(&without("training"), &["-f", link.to_str().unwrap()], &[]);
    let changed = std::fs::read_to_string(&target).unwrap().replace("0.15", "0.5");
    std::fs::write(&target, changed).unwrap();
    let (heard, _) = fleet.program.hear("training: tracing.samplingRate 0.15 -> 0.5");
    let saved = std::fs::metadata(&target).unwrap().modified().unwrap().elapsed().unwrap();
    let told = saved.saturating_sub(heard.elapsed());
    assert!(told < Duration::from_millis(250), "{told:?}");
    assert_eq!(fleet.stop(), Some(0));
}

/// A save between the first reading and the watching was never found. Here it comes while the first
/// reading is at it: it reads from a pipe that does not end.
#[tokio::test]
async fn a_save_while_the_files_are_read_for_the_first_time_is_not_missed() {
    let policy = |revision: u64| {
        format!(
            r#"{{"ownerUid":"u","revision":{revision},"generation":1,"hash":"h","publishedAt":"","policy":{{}}}}"#
        )
    };
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
        // Opens when the other side has opened it for reading.
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
        until("the save is in force", || async {
            let answer = http.get(format!("http://127.0.0.1:{port}/policyz")).send().await.ok();
            let Some(answer) = answer else { return false };
            answer.json::<Value>().await.is_ok_and(|policy| policy["revision"] == 2)
        })
        .await;
        program.signal(Signal::TERM);
        assert_eq!(program.end(Duration::from_secs(10)), Some(0));
    }
}

#[tokio::test]
async fn counters_cached_entries_and_connections_outlive_an_edit() {
    // So slow a refill that nothing comes back while the test runs, however slow the machine.
    let slowly = EXAMPLE.replace("refillPerSecond: 10\n", "refillPerSecond: 0.001\n");
    let fleet = Fleet::with(&slowly, &[], &[]);
    let get = || async {
        let answer = fleet.http.get(fleet.url("budget", "/api/v1/budget")).send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
        (answer.status().as_u16(), header("cache-status"), header("phase6-policy"))
    };
    assert_eq!(get().await.1, "budget; fwd=uri-miss; stored");
    assert_eq!(get().await.0, 200);
    let opened =
        fleet.get("budget", "/api/v1/system/observability").await.1["connections"]["accepted"].clone();
    // Three tokens are used; four are allowed from now on.
    fleet.save(&slowly.replace("capacity: 100\n", "capacity: 4\n"));
    fleet.program.hear("rateLimit.capacity 100 -> 4");
    let (status, cache, revision) = get().await;
    assert!(
        status == 200 && cache.starts_with("budget; hit") && revision == "2",
        "{status} {cache} {revision}"
    );
    assert_eq!(get().await.0, 429, "what was used before the edit still counts");
    let (_, policy) = fleet.get("budget", "/policyz").await;
    assert_eq!(policy["revision"], 2);
    fleet.save(&slowly);
    fleet.program.hear("rateLimit.capacity 4 -> 100");
    let now = fleet.get("budget", "/api/v1/system/observability").await.1["connections"]["accepted"].clone();
    assert_eq!(now, opened, "the same connection was used all along");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn a_request_under_way_is_not_disturbed_by_an_edit() {
    let fleet = Fleet::start();
    let mut events = fleet.http.get(fleet.url("budget", "/api/v1/providers/realtime")).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    fleet.save(&retuned(EXAMPLE));
    fleet.program.hear("in force");
    let next = tokio::time::timeout(Duration::from_secs(8), events.chunk()).await.unwrap();
    assert!(next.unwrap().is_some(), "the stream goes on");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn nonsense_is_told_whole_and_the_fleet_goes_on() {
    let fleet = Fleet::start();
    fleet.save(
        &EXAMPLE
            .replace("capacity: 100\n", "capacity: -5\n")
            .replace("ttl: 5s", "ttl: 5 sec")
            .replace("samplingRate: 0.20", "samplingRate: 20"),
    );
    fleet.program.hear("3 errors; the last valid policy stays in force:");
    for fault in [
        "document 3 (meta): `spec.tracing.samplingRate` is 20; accepted: a number from 0 to 1",
        "document 4 (budget): `spec.cache.ttl` is \"5 sec\"; accepted: a duration from 0s to 24h, such as 500ms, 5s, 1m30s or 2h",
        "document 4 (budget): `spec.rateLimit.capacity` is -5; accepted: an integer from 1 to 1000000",
    ] {
        let (_, line) = fleet.program.hear(fault);
        assert!(line.contains("fleet.yaml:"), "the line: {line}");
    }
    let (_, policy) = fleet.get("budget", "/policyz").await;
    assert_eq!(policy["revision"], 1);
    assert!(policy["error"].as_str().unwrap().contains("rateLimit.capacity` is -5"), "{policy}");
    assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    let port = fleet.base_port.to_string();
    let (code, shown, _) = phase6(&["status", "--base-port", &port]);
    assert!(code == 1 && shown.contains("samplingRate` is 20"), "{shown}");

    for nonsense in [
        "kind: [",
        "\u{0}\u{1}",
        "",
        "kind: Phase6Service",
        "- a\n- b",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: x}",
    ] {
        fleet.save(nonsense);
        until("the error is shown", || async { fleet.get("web", "/policyz").await.1["error"].is_string() })
            .await;
    }
    fleet.save(EXAMPLE);
    until("the error is gone", || async { fleet.get("web", "/policyz").await.1["error"].is_null() }).await;
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
    fleet.program.hear("service cannot be changed");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn a_removed_document_stops_its_service_after_its_requests_and_an_added_one_starts_it() {
    let fleet = Fleet::start();
    let mut events = fleet.http.get(fleet.url("budget", "/api/v1/providers/realtime")).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    fleet.save(&without("budget"));
    fleet.program.hear("budget: removed from the file; it stops after its requests");
    // The stream is told that the service stops, and ends whole.
    while events.chunk().await.unwrap().is_some() {}
    let (_, line) = fleet.program.hear("budget: stopped");
    assert_eq!(line, "budget: stopped");
    assert_eq!(fleet.get("budget", "/readyz").await.0, 0, "nobody listens");
    assert_eq!(fleet.get("web", "/readyz").await.0, 200);
    fleet.save(EXAMPLE);
    fleet.program.hear("budget: started at http://127.0.0.1:");
    assert_eq!(fleet.get("budget", "/api/v1/budget").await.0, 200);
    assert_eq!(fleet.stop(), Some(0));
}

/// A service that was added again while it finished its requests was waited for, and nothing else was
/// heard meanwhile.
#[tokio::test]
async fn while_a_service_finishes_its_requests_edits_and_ctrl_c_are_heard() {
    let mut fleet = Fleet::start();
    let slow = half_a_request(&fleet).await;
    fleet.save(&without("budget"));
    fleet.program.hear("budget: removed from the file; it stops after its requests");
    fleet.save(EXAMPLE);
    fleet.program.hear("budget: starts once its port is free");
    fleet.save(&EXAMPLE.replace("capacity: 1000\n", "capacity: 900\n"));
    let told = said_after_save(&fleet, "web: rateLimit.capacity 1000 -> 900; in force");
    assert!(told < 250, "{told} ms");
    assert!(!fleet.program.said().contains("budget: stopped"), "{}", fleet.program.said());
    let answer = other_half(slow);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    fleet.program.hear("budget: stopped");
    fleet.program.hear("budget: started at http://127.0.0.1:");
    until("it serves again", || async { fleet.get("budget", "/api/v1/budget").await.0 == 200 }).await;

    let _never_finished = half_a_request(&fleet).await;
    fleet.save(&without("budget"));
    until("it stops", || async { fleet.get("budget", "/readyz").await.0 == 0 }).await;
    fleet.save(EXAMPLE);
    let waits = "budget: starts when the last requests";
    until("it waits", || async { fleet.program.said().matches(waits).count() == 2 }).await;
    let asked = Instant::now();
    fleet.program.signal(Signal::INT);
    fleet.program.hear("stopping: requests in flight are finished");
    fleet.program.signal(Signal::INT);
    assert_eq!(fleet.program.end(Duration::from_secs(5)), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2));
    fleet.program.hear("stopped at once");
}

/// The old service was told to have stopped before it was told that it stops.
#[tokio::test]
async fn a_renamed_document_is_told_in_the_order_in_which_things_happen() {
    let fleet = Fleet::start();
    fleet.save(&EXAMPLE.replace("name: coach\n", "name: trainer\n"));
    fleet.program.hear("trainer: started at http://127.0.0.1:");
    let said = fleet.program.said();
    let at = |line: &str| said.find(line).unwrap_or_else(|| panic!("never said {line:?}: {said}"));
    let order = [
        at("coach: removed from the file; it stops after its requests"),
        at("coach: stopped"),
        at("trainer: started at"),
    ];
    assert!(order.is_sorted(), "{said}");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn ctrl_c_stops_cleanly_and_a_second_one_at_once() {
    let fleet = Fleet::start();
    assert_eq!(fleet.stop(), Some(0));

    let mut fleet = Fleet::start();
    let _never_finished = half_a_request(&fleet).await;
    fleet.program.signal(Signal::INT);
    fleet.program.hear("stopping");
    fleet.program.signal(Signal::INT);
    let asked = Instant::now();
    assert_eq!(fleet.program.end(Duration::from_secs(5)), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn sigterm_finishes_requests_under_way() {
    let mut fleet = Fleet::start();
    let slow = half_a_request(&fleet).await;
    fleet.program.signal(Signal::TERM);
    fleet.program.hear("stopping");
    let answer = other_half(slow);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(fleet.program.end(Duration::from_secs(10)), Some(0));
    assert!(fleet.program.said().ends_with("\nstopped"), "{}", fleet.program.said());
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_way_out() {
    let fleet = Fleet::start();
    let folder = tempfile::tempdir().unwrap();
    let port = fleet.base_port.to_string();
    let (code, _, told) = phase6(&["up", "--base-port", &port, "--data", folder.path().to_str().unwrap()]);
    assert_eq!(code, 1);
    for service in services() {
        let line = format!(
            "{service}: 127.0.0.1:{} is in use by another process; choose other ports with --base-port N",
            fleet.port(service)
        );
        assert!(told.contains(&line), "{told}");
    }
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn only_some_services_run_if_only_they_are_wanted() {
    let fleet = Fleet::with(EXAMPLE, &["--only", "web,budget"], &[]);
    assert!(fleet.program.said().contains("2 services ready"));
    assert_eq!(fleet.get("budget", "/readyz").await.0, 200);
    assert_eq!(fleet.get("meta", "/readyz").await.0, 0);
    let (_, status) = fleet.get("web", "/system/status").await;
    assert_eq!(
        (&status["services"]["budget"], &status["services"]["meta"]),
        (&Value::from(true), &Value::from(false))
    );
    fleet.save(&retuned(EXAMPLE));
    fleet.program.hear("capacity 100 -> 3");
    assert!(!fleet.program.said().contains("meta: started"), "still only the two");
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
    assert!(fleet.program.said().contains("3 services ready"), "{}", fleet.program.said());
    std::fs::write(more.join("a.yaml"), parts[1].replace("0.15", "0.5")).unwrap();
    fleet.program.hear("training: tracing.samplingRate 0.15 -> 0.5");
    std::fs::write(more.join("c.yaml"), parts[3]).unwrap();
    fleet.program.hear("budget: started at");
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn bound_to_others_it_lets_in_only_who_has_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let (code, made, _) = phase6(&["key", "alice"]);
    assert_eq!(code, 0);
    let of = |name: &str| made.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let (key, line) = (of("key:"), of("line:"));
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
            let answer = fleet.http.get(fleet.url(service, path)).header(name, &value).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), expected, "{service} {name}");
        }
    }
    let everything = format!("{}{}", fleet.program.said(), fleet.program.errors());
    assert!(!everything.contains(&key), "the key stands in no log");
    assert_eq!(fleet.stop(), Some(0));
}
