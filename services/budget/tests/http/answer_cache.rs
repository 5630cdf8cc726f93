//! Cached answers and identical requests.

use std::time::Duration;

use phase6_chassis::Role;
use serde_json::{Value, json};

use crate::{fake_providers::Reply, harness::Harness};

#[tokio::test]
async fn identical_concurrent_requests_share_one_call() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Slow(Duration::from_millis(100), "once")]);
    let answers = futures_util::future::join_all((0..10).map(|_| harness.burst("same prompt"))).await;
    assert!(
        answers.iter().all(|(status, response)| *status == 200 && response["text"] == "once"),
        "{answers:?}"
    );
    assert_eq!(harness.providers.requests("openai").len(), 1);
    let joined = answers.iter().filter(|(_, response)| response["joined"] == true).count();
    assert_eq!(joined, 9);
    let costs: f64 = answers.iter().map(|(_, response)| response["cost"].as_f64().unwrap()).sum();
    assert!((costs - harness.used().await).abs() < 1e-9, "costs add up to the amount charged: {costs}");
    harness.stop().await;
}

#[tokio::test]
async fn answers_are_cached_and_failures_are_not() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Status(500), Reply::Text("good")]);
    assert_eq!(harness.burst("hello").await.0, 503);
    let (_, first) = harness.burst("hello").await;
    assert_eq!((&first["cached"], &first["text"]), (&json!(false), &json!("good")));
    let (_, second) = harness.burst("hello").await;
    assert_eq!(
        (&second["cached"], &second["text"], &second["cost"]),
        (&json!(true), &json!("good"), &json!(0.0))
    );
    let other = json!({"prompt": "hello", "criticality": "high"});
    assert_eq!(harness.service.post_json::<Value>("/api/v1/providers/burst", &other).await["cached"], false);
    for _ in 0..2 {
        let never = json!({"prompt": "again", "ttlSeconds": 0});
        assert_eq!(
            harness.service.post_json::<Value>("/api/v1/providers/burst", &never).await["cached"],
            false
        );
    }
    harness.stop().await;
}

#[tokio::test]
async fn cached_answers_are_not_shared_between_tenants() {
    let harness = Harness::start_with(&["openai"], &[], |builder| {
        let builder = builder.api_key("red", "ada", Role::Member, "red-key");
        builder.api_key("blue", "ada", Role::Member, "blue-key")
    })
    .await;
    harness.providers.reply("openai", [Reply::Text("for red"), Reply::Text("for blue")]);
    let request_answer = |key: &'static str| {
        let request = harness.post_request("/api/v1/providers/burst").header("x-api-key", key);
        async move { request.json(&json!({"prompt": "mine"})).send().await.json::<Value>() }
    };
    assert_eq!(request_answer("red-key").await["text"], "for red");
    assert_eq!(request_answer("blue-key").await["text"], "for blue");
    assert_eq!(request_answer("red-key").await["text"], "for red");
    assert_eq!(request_answer("nobody-s").await["error"]["code"], "unauthorized");
    harness.stop().await;
}
