//! One service, as a pod runs it: its policy and its stop.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use phase6_tests::{EXAMPLE, Served, refused, until};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn document(revision: u64, policy: &str) -> String {
    format!(
        r#"{{"ownerUid":"u","revision":{revision},"generation":1,"hash":"h{revision}","publishedAt":"","policy":{policy}}}"#
    )
}

fn limit(revision: u64, capacity: u64) -> String {
    document(revision, &format!(r#"{{"rateLimit":{{"capacity":{capacity},"refillPerSecond":1}}}}"#))
}

#[tokio::test]
async fn one_service_is_served_as_a_pod_runs_it() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    std::fs::write(&policy, limit(5, 50)).unwrap();
    let served = Served::start("budget", &["--policy", policy.to_str().unwrap()]).await;
    assert_eq!(served.policy().await["revision"], 5);
    std::fs::write(&policy, limit(6, 60)).unwrap();
    until("the new revision is in force", || async { served.policy().await["revision"] == 6 }).await;
    std::fs::write(&policy, limit(4, 40)).unwrap();
    std::fs::write(&policy, "{").unwrap();
    until("the error is shown", || async { served.policy().await["error"].is_string() }).await;
    assert_eq!(served.policy().await["revision"], 6, "the last good one stays");
    std::fs::write(&policy, limit(7, 70)).unwrap();
    until("it recovers", || async { served.policy().await["revision"] == 7 }).await;
    assert!(served.policy().await["error"].is_null());
    assert_eq!(served.stop(), Some(0));
}

/// A compiled policy was believed: a capacity of -5 refused everybody, a refill of 0 for ever.
#[tokio::test]
async fn a_compiled_policy_that_breaks_the_rules_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, data) = (folder.path().join("policy.json"), folder.path().join("data"));
    let policy_option = ["--policy", policy.to_str().unwrap()];
    let broken =
        r#"{"rateLimit":{"capacity":-5,"refillPerSecond":0},"circuitBreaker":{"halfOpenProbes":4294967296}}"#;
    let told = [
        "`policy.rateLimit.capacity` is -5; accepted: an integer from 1 to 1000000",
        "policy.rateLimit.refillPerSecond is 0.0; accepted: a number from 0.001 to 1000000",
        "`policy.circuitBreaker.halfOpenProbes` is 4294967296; accepted: an integer from 1 to 100",
    ];
    std::fs::write(&policy, document(1, broken)).unwrap();
    let port = phase6_tests::free_ports().to_string();
    let mut arguments = vec!["serve", "budget", "--port", &port, "--data", data.to_str().unwrap()];
    arguments.extend(policy_option);
    let (code, errors) = refused(&arguments);
    assert!(code == Some(1) && told.iter().all(|line| errors.contains(line)), "{code:?}: {errors}");

    std::fs::write(&policy, limit(1, 50)).unwrap();
    let served = Served::start("budget", &policy_option).await;
    assert_eq!(served.policy().await["revision"], 1);
    std::fs::write(&policy, document(2, broken)).unwrap();
    until("the error is shown", || async { served.policy().await["error"].is_string() }).await;
    let shown = served.policy().await;
    let error = shown["error"].as_str().unwrap();
    assert!(told.iter().all(|line| error.contains(line)), "{error}");
    assert_eq!(shown["revision"], 1, "the last good one stays");
    assert_eq!(served.stop(), Some(0));
}

#[tokio::test]
async fn one_service_can_follow_the_written_documents_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let served = Served::start("reports", &["-f", file.to_str().unwrap()]).await;
    assert_eq!(served.policy().await["revision"], 1);
    std::fs::write(&file, EXAMPLE.replace("ttl: 10s", "ttl: 1s")).unwrap();
    until("the edit is in force", || async { served.policy().await["revision"] == 2 }).await;
    assert_eq!(served.stop(), Some(0));
}

/// In the system before this one, health said that all was well whatever was the case.
#[tokio::test]
async fn a_service_that_is_about_to_stop_says_so_and_still_answers() {
    let mut served = Served::start("budget", &["--notice", "2"]).await;
    let (status, health) = served.get("/health").await.unwrap();
    assert_eq!((status, &health["ok"], &health["ready"]), (200, &json!(true), &json!(true)));
    served.program.signal(Signal::TERM);
    until("it says so", || async { served.get("/readyz").await.is_some_and(|(status, _)| status == 503) })
        .await;
    let (status, health) = served.get("/health").await.unwrap();
    assert_eq!((status, &health["ok"], &health["ready"]), (503, &json!(false), &json!(false)));
    for path in ["/livez", "/policyz", "/api/v1/budget"] {
        assert_eq!(served.get(path).await.unwrap().0, 200, "{path}");
    }
    assert_eq!(served.program.end(Duration::from_secs(10)), Some(0));
}

/// Whoever keeps connections open must not have one closed under a request that is on its way.
#[tokio::test]
async fn a_service_that_leaves_asks_callers_to_connect_anew_and_closes_nothing_itself() {
    let mut served = Served::start("coach", &["--notice", "300"]).await;
    let mut idle = tokio::net::TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut answer = [0; 2048];
    idle.write_all(request).await.unwrap();
    let read = idle.read(&mut answer).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer[..read]).contains("connection: close"));
    served.program.signal(Signal::TERM);
    until("it says so", || async { served.get("/readyz").await.is_some_and(|(status, _)| status == 503) })
        .await;
    // It stays for the one that is connected, however quiet.
    tokio::time::sleep(Duration::from_secs(4)).await;
    idle.write_all(request).await.unwrap();
    let mut last = String::new();
    idle.read_to_string(&mut last).await.unwrap();
    assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
    // And ends when nobody is connected any more.
    assert_eq!(served.program.end(Duration::from_secs(10)), Some(0));
}

/// With a number typed wrong, only SIGKILL ended it.
#[tokio::test]
async fn a_second_signal_cuts_the_notice_short() {
    let mut served = Served::start("coach", &["--notice", "300"]).await;
    served.program.signal(Signal::TERM);
    until("it says so", || async { served.get("/readyz").await.is_some_and(|(status, _)| status == 503) })
        .await;
    served.program.signal(Signal::TERM);
    assert_eq!(served.program.end(Duration::from_secs(10)), Some(0));
    assert!(served.program.errors().contains("second signal"), "{}", served.program.errors());
}
