//! The provider policy.

use http::Method;
use phase6_chassis::testing::TestResponse;
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
        (
            json!({"criticality": "chat"}),
            "field `criticality` is \"chat\"; accepted: `low`, `normal`, `high`, `critical`",
        ),
        (json!({"concurrency": 3}), "field `concurrency` is unknown"),
    ] {
        let (status, response) =
            status_and_json(&harness.service.post("/api/v1/providers/policy", &body).await);
        let message = response["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(expected), "{body}: {response}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_change_may_name_the_version_that_it_follows() {
    let harness = Harness::start(&[], &[]).await;
    let path = "/api/v1/providers/policy";
    let policy = json!({"maxConcurrency": 7, "criticality": "high"});
    let put = |if_match: Option<&'static str>| {
        let request = harness.service.request(Method::PUT, path).json(&policy);
        match if_match {
            Some(versions) => request.header("if-match", versions),
            None => request,
        }
    };
    let tag = |response: &TestResponse| response.headers["etag"].to_str().unwrap().to_owned();
    let before = harness.service.request(Method::GET, path).send().await;
    assert_eq!(tag(&before), "\"0\"");
    for (if_match, status, code) in [
        (None, 428, "precondition_required"),
        (Some("\"1\""), 412, "version_mismatch"),
        (Some("W/\"0\""), 412, "version_mismatch"),
        (Some("0"), 400, "invalid_header"),
    ] {
        let (found, response) = status_and_json(&put(if_match).send().await);
        assert_eq!((found, &response["error"]["code"]), (status, &json!(code)), "{if_match:?}");
    }
    let replaced = put(Some("\"0\"")).send().await;
    assert_eq!((replaced.status.as_u16(), tag(&replaced)), (200, "\"1\"".to_owned()));
    assert_eq!(tag(&put(Some("*")).send().await), "\"2\"");
    let change = harness.service.request(Method::POST, path).json(&json!({"maxConcurrency": 3}));
    let (status, stale) = status_and_json(&change.header("if-match", "\"1\"").send().await);
    assert!(
        status == 412 && stale["error"]["message"].as_str().unwrap().starts_with("the current version is 2;"),
        "{stale}"
    );
    let changed = harness.service.post(path, &json!({"maxConcurrency": 3})).await;
    assert_eq!((changed.status.as_u16(), tag(&changed)), (200, "\"3\"".to_owned()));
    assert_eq!(tag(&harness.service.request(Method::GET, path).send().await), "\"3\"");
    harness.stop().await;
}
