//! The gateway's own endpoints, and a peer behind it.

use phase6_chassis::{Clock, Definition, catalog::Service, testing::TestService};
use phase6_web::SERVICE;
use serde_json::{Value, json};

const BUDGET: Definition = Definition::not_built(Service::named("budget"));

#[tokio::test]
async fn the_gateway_reports_which_services_are_ready() {
    let peer = TestService::start(&BUDGET).await;
    let clock = Clock::manual("2026-01-01T00:00:00Z".parse().expect("a time"));
    let gateway = TestService::builder(&SERVICE)
        .peer("budget", vec![peer.address().to_string()])
        .clock(clock)
        .start()
        .await;
    let status: Value = gateway.get_json("/system/status").await;
    assert_eq!(status["time"], "2026-01-01T00:00:00Z");
    assert_eq!(status["services"]["budget"], true, "{status}");
    assert_eq!(status["services"]["training"], false, "{status}");
    gateway.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test]
async fn requests_are_forwarded_to_the_service_that_owns_the_path() {
    let peer = TestService::start(&BUDGET).await;
    let gateway =
        TestService::builder(&SERVICE).peer("budget", vec![peer.address().to_string()]).start().await;
    let forwarded = gateway.get("/api/v1/budget").await;
    assert_eq!(forwarded.status, 404, "the peer has not implemented its endpoints");
    let message = forwarded.json::<Value>()["error"]["message"].clone();
    assert_eq!(message, json!("the path /api/v1/budget does not exist; /openapi.json lists all paths"));
    let unowned = gateway.get("/api/v1/unowned").await;
    assert_eq!(unowned.status, 404);
    assert!(unowned.text().contains("no service owns /api/v1/unowned"), "{}", unowned.text());
    gateway.shutdown().await;
    peer.shutdown().await;
}
