//! Live events.

use futures_util::StreamExt;
use serde_json::Value;

use crate::harness::Harness;

#[tokio::test]
async fn a_live_stream_ends_with_the_service() {
    let harness = Harness::start(&[], &[]).await;
    let response = harness.get_request("/api/v1/providers/realtime").send().await.unwrap();
    let mut chunks = response.bytes_stream();
    let first = chunks.next().await.unwrap().unwrap();
    let text = std::str::from_utf8(&first).unwrap();
    assert!(text.starts_with("event: summary\ndata: {"), "{text}");
    let data: Value =
        serde_json::from_str(text.lines().nth(1).unwrap().trim_start_matches("data: ")).unwrap();
    assert_eq!(data["budget"]["limit"], 5.0);
    assert_eq!(harness.get("/api/v1/providers/performance-stream").await.1["policy"]["maxConcurrency"], 4);
    harness.stop().await;
    while let Some(chunk) = chunks.next().await {
        chunk.unwrap();
    }
}
