//! One service, as a pod runs it: its policy file and its shutdown.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use phase6_tests::{EXAMPLE, ServiceProcess, policy_document, run_to_exit, wait_until};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Returns a policy document with a limit of this capacity.
fn limit(revision: u64, capacity: u64) -> String {
    policy_document(revision, 1, &json!({"rateLimit": {"capacity": capacity, "refillPerSecond": 1}}))
}

/// Waits until readiness fails, as it does before a service stops.
async fn wait_until_not_ready(service: &ServiceProcess) {
    wait_until("the service is not ready", || async {
        service.get("/readyz").await.is_some_and(|(status, _)| status == 503)
    })
    .await;
}

#[tokio::test]
async fn a_policy_file_takes_effect_if_it_is_valid_and_newer() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    std::fs::write(&policy, limit(5, 50)).unwrap();
    let service = ServiceProcess::start("budget", &["--policy", policy.to_str().unwrap()]).await;
    assert_eq!(service.policy().await["revision"], 5);
    std::fs::write(&policy, limit(6, 60)).unwrap();
    wait_until("the new revision is in force", || async { service.policy().await["revision"] == 6 }).await;
    std::fs::write(&policy, limit(4, 40)).unwrap();
    std::fs::write(&policy, "{").unwrap();
    wait_until("the error is reported", || async { service.policy().await["error"].is_string() }).await;
    assert_eq!(service.policy().await["revision"], 6, "the last valid policy stays in force");
    std::fs::write(&policy, limit(7, 70)).unwrap();
    wait_until("the next valid policy is in force", || async { service.policy().await["revision"] == 7 })
        .await;
    assert!(service.policy().await["error"].is_null());
    assert_eq!(service.stop(), Some(0));
}

/// Regression: a compiled policy was applied without validation. A capacity of -5 refused every request.
#[tokio::test]
async fn an_invalid_compiled_policy_is_rejected_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, data) = (folder.path().join("policy.json"), folder.path().join("data"));
    let policy_option = ["--policy", policy.to_str().unwrap()];
    let invalid = json!({
        "rateLimit": {"capacity": -5, "refillPerSecond": 0},
        "circuitBreaker": {"halfOpenProbes": 4_294_967_296_u64},
    });
    let expected = [
        "`policy.rateLimit.capacity` is -5; accepted: an integer from 1 to 1000000",
        "`policy.rateLimit.refillPerSecond` is 0.0; accepted: a number from 0.001 to 1000000",
        "`policy.circuitBreaker.halfOpenProbes` is 4294967296; accepted: an integer from 1 to 100",
    ];
    std::fs::write(&policy, policy_document(1, 1, &invalid)).unwrap();
    let port = phase6_tests::free_ports().to_string();
    let mut arguments = vec!["serve", "budget", "--port", &port, "--data", data.to_str().unwrap()];
    arguments.extend(policy_option);
    let (code, errors) = run_to_exit(&arguments);
    assert!(code == Some(1) && expected.iter().all(|line| errors.contains(line)), "{code:?}: {errors}");

    std::fs::write(&policy, limit(1, 50)).unwrap();
    let service = ServiceProcess::start("budget", &policy_option).await;
    assert_eq!(service.policy().await["revision"], 1);
    std::fs::write(&policy, policy_document(2, 1, &invalid)).unwrap();
    wait_until("the error is reported", || async { service.policy().await["error"].is_string() }).await;
    let policy = service.policy().await;
    let error = policy["error"].as_str().unwrap();
    assert!(expected.iter().all(|line| error.contains(line)), "{error}");
    assert_eq!(policy["revision"], 1, "the last valid policy stays in force");
    assert_eq!(service.stop(), Some(0));
}

#[tokio::test]
async fn a_service_can_follow_the_manifests_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let service = ServiceProcess::start("reports", &["-f", file.to_str().unwrap()]).await;
    assert_eq!(service.policy().await["revision"], 1);
    std::fs::write(&file, EXAMPLE.replace("ttl: 10s", "ttl: 1s")).unwrap();
    wait_until("the edit is in force", || async { service.policy().await["revision"] == 2 }).await;
    assert_eq!(service.stop(), Some(0));
}

/// In the original system the health endpoint always reported success.
#[tokio::test]
async fn a_stopping_service_reports_not_ready_and_still_responds() {
    let mut service = ServiceProcess::start("budget", &["--notice", "2"]).await;
    let (status, health) = service.get("/health").await.unwrap();
    assert_eq!((status, &health["ok"], &health["ready"]), (200, &json!(true), &json!(true)));
    service.program.signal(Signal::TERM);
    wait_until_not_ready(&service).await;
    let (status, health) = service.get("/health").await.unwrap();
    assert_eq!((status, &health["ok"], &health["ready"]), (503, &json!(false), &json!(false)));
    for path in ["/livez", "/policyz", "/api/v1/budget"] {
        assert_eq!(service.get(path).await.unwrap().0, 200, "{path}");
    }
    assert_eq!(service.program.wait_for_exit(Duration::from_secs(10)), Some(0));
}

/// If the service closed an idle connection, a request that a client sends on it at that moment would be lost.
#[tokio::test]
async fn a_stopping_service_asks_clients_to_close_their_connections_and_closes_none_itself() {
    let mut service = ServiceProcess::start("coach", &["--notice", "300"]).await;
    let mut idle = tokio::net::TcpStream::connect(("127.0.0.1", service.port)).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut response = [0; 2048];
    idle.write_all(request).await.unwrap();
    let read = idle.read(&mut response).await.unwrap();
    assert!(!String::from_utf8_lossy(&response[..read]).contains("connection: close"));
    service.program.signal(Signal::TERM);
    wait_until_not_ready(&service).await;
    // The idle connection stays open.
    tokio::time::sleep(Duration::from_secs(4)).await;
    idle.write_all(request).await.unwrap();
    let mut last = String::new();
    idle.read_to_string(&mut last).await.unwrap();
    assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
    // The service exits once no connection is open.
    assert_eq!(service.program.wait_for_exit(Duration::from_secs(10)), Some(0));
}

/// Regression: with a long notice by mistake, only SIGKILL ended the process.
#[tokio::test]
async fn a_second_signal_ends_the_notice() {
    let mut service = ServiceProcess::start("coach", &["--notice", "300"]).await;
    service.program.signal(Signal::TERM);
    wait_until_not_ready(&service).await;
    service.program.signal(Signal::TERM);
    assert_eq!(service.program.wait_for_exit(Duration::from_secs(10)), Some(0));
    assert!(service.program.errors().contains("second signal"), "{}", service.program.errors());
}
