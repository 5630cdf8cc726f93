//! The daily limit.

use std::time::Duration;

use phase6_chassis::Clock;
use serde_json::json;

use crate::{event_stream::EventStream, fake_providers::Reply, harness::Harness};

#[tokio::test]
async fn the_daily_limit_holds_under_concurrency() {
    let settings = [
        ("DAILY_BUDGET_LIMIT", "0.10"),
        ("OPENAI_COST_PER_CALL", "0.03"),
        ("OPENAI_INPUT_PRICE", "0"),
        ("OPENAI_OUTPUT_PRICE", "0"),
        ("PROVIDER_MAX_CONCURRENCY", "12"),
    ];
    let harness = Harness::start(&["openai"], &settings).await;
    harness.providers.reply("openai", [Reply::TextWithoutUsage("yes")]);
    let prompts: Vec<String> = (0..20).map(|i| format!("prompt {i}")).collect();
    let answers = futures_util::future::join_all(prompts.iter().map(|prompt| harness.burst(prompt))).await;
    let granted = answers.iter().filter(|(status, _)| *status == 200).count();
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 402).collect();
    assert_eq!((granted, refused.len()), (3, 17), "{answers:?}");
    assert_eq!(refused[0].1["error"]["code"], "budget_exceeded");
    assert_eq!(harness.providers.requests("openai").len(), 3, "a refused call is not sent");
    assert!((harness.used().await - 0.09).abs() < 1e-9);
    harness.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_for_other_calls_may_retry_soon() {
    let settings = [("DAILY_BUDGET_LIMIT", "0.10"), ("OPENAI_COST_PER_CALL", "0.08")];
    let harness = Harness::start(&["openai"], &settings).await;
    harness.providers.reply("openai", [Reply::Held("first second")]);
    let mut events = EventStream::open_prompt(&harness, "one").await;
    events.next().await.unwrap();
    let request = harness.post_request("/api/v1/providers/burst");
    let refused = request.json(&json!({"prompt": "two"})).send().await;
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (402, &"5".parse().unwrap()));
    let budget = harness.budget().await;
    assert_eq!((&budget["percent"], &budget["warning"]), (&json!(0.0), &json!(false)));
    harness.providers.release_held();
    events.last().await;
    harness.stop().await;
}

#[tokio::test]
async fn a_limit_of_zero_allows_free_calls_only() {
    let harness = Harness::start(&["openai", "ollama"], &[("DAILY_BUDGET_LIMIT", "0")]).await;
    harness.providers.reply("openai", [Reply::Text("paid")]);
    harness.providers.reply("ollama", [Reply::Text("free")]);
    let paid = json!({"prompt": "hello", "provider": "openai"});
    assert_eq!(harness.service.post("/api/v1/providers/burst", &paid).await.status, 402);
    let (status, response) = harness.burst("hello").await;
    assert_eq!(
        (status, response["text"].as_str(), response["cost"].as_f64()),
        (200, Some("free"), Some(0.0))
    );
    assert_eq!(harness.budget().await["blocked"], true);
    harness.stop().await;
}

#[tokio::test]
async fn spending_of_yesterday_does_not_count_after_midnight_utc() {
    let settings = [
        ("DAILY_BUDGET_LIMIT", "0.10"),
        ("OPENAI_COST_PER_CALL", "0.08"),
        ("OPENAI_INPUT_PRICE", "0"),
        ("OPENAI_OUTPUT_PRICE", "0"),
    ];
    let clock = Clock::manual("2026-01-31T23:59:00Z".parse().unwrap());
    let harness = Harness::start_with(&["openai"], &settings, |builder| builder.clock(clock.clone())).await;
    harness.providers.reply("openai", [Reply::TextWithoutUsage("yes")]);
    assert_eq!(harness.burst("one").await.0, 200);
    clock.advance(Duration::from_secs(59));
    let two = json!({"prompt": "two"});
    let refused = harness.service.post("/api/v1/providers/burst", &two).await;
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (402, &"1".parse().unwrap()));
    let yesterday = harness.budget().await;
    assert_eq!((&yesterday["date"], &yesterday["used"]), (&json!("2026-01-31"), &json!(0.08)));
    clock.advance(Duration::from_secs(1));
    let today = harness.budget().await;
    assert_eq!((&today["date"], &today["used"]), (&json!("2026-02-01"), &json!(0.0)));
    assert_eq!(harness.burst("two").await.0, 200);
    assert_eq!(harness.budget().await["used"], 0.08);
    harness.stop().await;
}
