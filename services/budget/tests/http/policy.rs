//! The provider policy.

use serde_json::json;

use crate::harness::Harness;

#[tokio::test]
async fn changes_the_provider_policy_and_rejects_bad_values() {
    let harness = Harness::start(&[], &[]).await;
    let (_, before) = harness.get("/api/v1/providers/policy").await;
    assert_eq!(before["policy"], json!({"maxConcurrency": 4, "minConcurrency": 1, "criticality": "normal"}));
    let (status, after) =
        harness.post("/api/v1/providers/policy", json!({"maxConcurrency": 7, "criticality": "high"})).await;
    assert_eq!((status, &after["policy"]["maxConcurrency"]), (200, &json!(7)));
    assert_eq!(harness.get("/api/v1/providers/policy").await.1["policy"]["criticality"], "high");
    for (body, expected) in [
        (json!({"maxConcurrency": 0}), "accepted: a whole number from 1 to 12"),
        (json!({"maxConcurrency": 13}), "accepted: a whole number from 1 to 12"),
        (json!({"maxConcurrency": "many"}), "field `maxConcurrency`"),
        (json!({"criticality": "chat"}), "expected one of `low`, `normal`, `high`, `critical`"),
        (json!({"concurrency": 3}), "unknown field `concurrency`"),
    ] {
        let (status, response) = harness.post("/api/v1/providers/policy", body.clone()).await;
        let message = response["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(expected), "{body}: {response}");
    }
    harness.stop().await;
}
