//! Live events.

use http::Method;
use serde_json::Value;

use crate::harness::Harness;

#[tokio::test]
async fn a_live_stream_ends_with_the_service() {
    let harness = Harness::start(&[], &[]).await;
    let mut events = harness.service.request(Method::GET, "/api/v1/providers/realtime").open().await;
    let first = events.next().await.unwrap();
    let text = std::str::from_utf8(&first).unwrap();
    assert!(text.starts_with("event: summary\ndata: {"), "{text}");
    let data: Value =
        serde_json::from_str(text.lines().nth(1).unwrap().trim_start_matches("data: ")).unwrap();
    assert_eq!(data["budget"]["limit"], 5.0);
    assert_eq!(
        harness.service.get_json::<Value>("/api/v1/providers/performance-stream").await["policy"]["maxConcurrency"],
        4
    );
    harness.stop().await;
    events.read().await;
}
