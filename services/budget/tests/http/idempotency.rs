//! Idempotency keys of the operations that record.

use std::time::Duration;

use phase6_chassis::{Role, testing::TestResponse};
use serde_json::{Value, json};

use crate::{
    fake_providers::Reply,
    harness::{Harness, wait_until},
};

const RECORD: &str = "/api/v1/budget/record-workflow";
const BURST: &str = "/api/v1/providers/burst";

async fn post(harness: &Harness, path: &str, key: &str, body: &Value) -> TestResponse {
    harness.post_request(path).header("idempotency-key", key).json(body).send().await
}

fn workflow(id: &str, cost: f64) -> Value {
    json!({"cohortId": "c", "workflowId": id, "provider": "openai", "cost": cost})
}

#[tokio::test]
async fn a_repeated_record_gets_the_first_response() {
    let harness = Harness::start(&[], &[]).await;
    let first = post(&harness, RECORD, "\"k-1\"", &workflow("w-1", 1.0)).await;
    assert!(first.status == 200 && !first.headers.contains_key("idempotency-replayed"));
    post(&harness, RECORD, "\"k-2\"", &workflow("w-2", 2.0)).await;
    for key in ["\"k-1\"", "k-1"] {
        let again = post(&harness, RECORD, key, &workflow("w-1", 1.0)).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body), "as it was then");
        assert_eq!(again.headers["idempotency-replayed"], "true");
    }
    let other = post(&harness, RECORD, "\"k-1\"", &workflow("w-3", 1.0)).await;
    assert_eq!(other.status, 422);
    assert_eq!(other.json::<Value>()["error"]["code"], "idempotency_key_reused");
    let metrics: Value = harness.service.get_json("/api/v1/budget/metrics/c").await;
    assert_eq!(metrics["metrics"]["workflowsExecuted"], 2);
    harness.stop().await;
}

#[tokio::test]
async fn a_request_that_failed_may_be_repeated_with_its_key() {
    let harness = Harness::start(&[], &[]).await;
    assert_eq!(post(&harness, RECORD, "\"k\"", &workflow("w", -1.0)).await.status, 400);
    assert_eq!(post(&harness, RECORD, "\"k\"", &workflow("w", 1.0)).await.status, 200);
    for invalid in ["\"k", "a b", ""] {
        let refused = post(&harness, RECORD, invalid, &workflow("w", 1.0)).await;
        assert_eq!(refused.json::<Value>()["error"]["code"], "invalid_idempotency_key", "{invalid}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_key_costs_one_statement() {
    let harness = Harness::start(&[], &[]).await;
    let statements = async || {
        let observed: Value = harness.service.get_json("/api/v1/system/observability").await;
        observed["database"]["statements"].as_u64().unwrap()
    };
    // Jobs run statements too, so the least of several counts is that of the request.
    let count = async |has_key: bool| {
        let mut least = u64::MAX;
        for number in 0..10 {
            let before = statements().await;
            let id = format!("{has_key}-{number}");
            let request = harness.post_request(RECORD).json(&workflow(&id, 1.0));
            let request = if has_key { request.header("idempotency-key", id) } else { request };
            assert_eq!(request.send().await.status, 200);
            least = least.min(statements().await - before);
        }
        least
    };
    assert_eq!(count(true).await, count(false).await + 1);
    harness.stop().await;
}

#[tokio::test]
async fn an_answer_is_paid_for_once() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Status(500), Reply::Text("first"), Reply::Text("second")]);
    let body = json!({"prompt": "hello", "ttlSeconds": 0});
    assert_eq!(post(&harness, BURST, "\"k\"", &body).await.status, 503);
    let first = post(&harness, BURST, "\"k\"", &body).await;
    assert_eq!(first.json::<Value>()["text"], "first");
    assert_eq!(post(&harness, BURST, "\"k\"", &body).await.body, first.body);
    assert_eq!(harness.providers.requests("openai").len(), 2);
    let stream = json!({"prompt": "hello", "stream": true});
    assert_eq!(post(&harness, BURST, "\"s\"", &stream).await.status, 400);
    harness.stop().await;
}

#[tokio::test]
async fn an_answer_is_completed_for_a_client_that_went_away() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Slow(Duration::from_millis(300), "late")]);
    let body = json!({"prompt": "hello", "ttlSeconds": 0});
    let gone = post(&harness, BURST, "\"k\"", &body);
    assert!(tokio::time::timeout(Duration::from_millis(100), gone).await.is_err(), "the client goes away");
    let again = post(&harness, BURST, "\"k\"", &body).await;
    assert_eq!(
        (again.status.as_u16(), again.json::<Value>()["error"]["code"].as_str()),
        (409, Some("idempotency_key_in_use"))
    );
    wait_until("the answer is stored", || async {
        post(&harness, BURST, "\"k\"", &body).await.status == 200
    })
    .await;
    assert_eq!(post(&harness, BURST, "\"k\"", &body).await.json::<Value>()["text"], "late");
    assert_eq!(harness.providers.requests("openai").len(), 1);
    harness.stop().await;
}

#[tokio::test]
async fn keys_of_two_tenants_are_two_keys() {
    let harness = Harness::start_with(&[], &[], |builder| {
        let builder = builder.api_key("red", "ada", Role::Member, "red-key");
        builder.api_key("blue", "ada", Role::Member, "blue-key")
    })
    .await;
    for key in ["red-key", "blue-key"] {
        let request =
            harness.post_request(RECORD).header("x-api-key", key).header("idempotency-key", "\"k\"");
        let recorded: Value = request.json(&workflow("w", 1.0)).send().await.json();
        assert_eq!((&recorded["recorded"], &recorded["metrics"]["totalSpent"]), (&json!(true), &json!(1.0)));
    }
    harness.stop().await;
}
