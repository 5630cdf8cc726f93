//! The provider policy.

use serde_json::{Value, json};

use crate::harness::{Harness, status_and_json};

#[tokio::test]
async fn changes_the_provider_policy_and_rejects_bad_values() {
    let harness = Harness::start(&[], &[]).await;
    let before: Value = harness.service.get_json("/api/v1/providers/policy").await;
    assert_eq!(before["policy"], json!({"maxConcurrency": 4, "minConcurrency": 1, "criticality": "normal"}));
    let (status, after) = status_and_json(
        &harness
            .service
            .post("/api/v1/providers/policy", &json!({"maxConcurrency": 7, "criticality": "high"}))
            .await,
    );
    assert_eq!((status, &after["policy"]["maxConcurrency"]), (200, &json!(7)));
    assert_eq!(
        harness.service.get_json::<Value>("/api/v1/providers/policy").await["policy"]["criticality"],
        "high"
    );
    for (body, expected) in [
        (json!({"maxConcurrency": 0}), "accepted: a whole number from 1 to 12"),
        (json!({"maxConcurrency": 13}), "accepted: a whole number from 1 to 12"),
        (json!({"maxConcurrency": "many"}), "field `maxConcurrency`"),
        (json!({"criticality": "chat"}), "expected one of `low`, `normal`, `high`, `critical`"),
        (json!({"concurrency": 3}), "unknown field `concurrency`"),
    ] {
        let (status, response) =
            status_and_json(&harness.service.post("/api/v1/providers/policy", &body).await);
        let message = response["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(expected), "{body}: {response}");
    }
    harness.stop().await;
}
