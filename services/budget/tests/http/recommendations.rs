//! Recommended providers, and statistics of calls.

use serde_json::{Value, json};

use crate::{fake_providers::Reply, harness::Harness};

#[tokio::test]
async fn recommends_the_least_expensive_or_the_preferred_provider() {
    let harness = Harness::start(&["openai", "deepseek", "anthropic"], &[]).await;
    let cheapest: Value = harness.service.get_json("/api/v1/providers/recommend").await;
    assert_eq!((&cheapest["recommended"], &cheapest["cost"]), (&json!("deepseek"), &json!(0.002)));
    let best: Value = harness
        .service
        .get_json("/api/v1/providers/recommend?prompt=compare+these&criticality=critical")
        .await;
    assert_eq!(best["recommended"], "anthropic");
    assert_eq!(harness.service.get("/api/v1/providers/recommend?color=red").await.status, 400);
    let costs: Value = harness.service.get_json("/api/v1/providers/costs").await;
    assert_eq!(costs["prices"]["openai"], 0.01);
    assert_eq!(costs["tokens"]["openai"]["inputPerMillion"], 0.1);
    harness.stop().await;
}

#[tokio::test]
async fn learning_stats_follow_the_outcomes_of_calls() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Text("yes")]);
    for i in 0..10 {
        harness.burst(&format!("write a poem about {i}")).await;
    }
    let stats: Value = harness.service.get_json("/api/v1/system/learning-stats").await;
    assert_eq!(stats["providerQuality"][0]["task"], "creative");
    assert_eq!(stats["providerQuality"][0]["successRate"], 1.0);
    assert_eq!(stats["topPerformer"], json!({"provider": "openai", "task": "creative"}));
    harness.stop().await;
}
