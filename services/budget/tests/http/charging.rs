//! Costs of calls.

use serde_json::{Value, json};

use crate::{event_stream::EventStream, fake_providers::Reply, harness::Harness};

#[tokio::test]
async fn a_call_is_charged_by_its_tokens() {
    let settings = [("OPENAI_INPUT_PRICE", "2"), ("OPENAI_OUTPUT_PRICE", "8")];
    let harness = Harness::start(&["openai"], &settings).await;
    harness.providers.reply("openai", [Reply::Text("yes")]);
    let (_, response) = harness.burst("hello").await;
    assert_eq!((response["cost"].as_f64(), response["estimated"].as_bool()), (Some(0.006), Some(false)));
    let budget = harness.budget().await;
    assert_eq!(budget["used"], 0.006);
    assert_eq!(budget["reserved"], 0.0);
    assert_eq!(budget["calls"], json!({"openai": 1}));
    let history: Value = harness.service.get_json("/api/v1/budget/history").await;
    assert_eq!(
        (&history["history"][0]["provider"], &history["history"][0]["cost"]),
        (&json!("openai"), &json!(0.006))
    );
    harness.stop().await;
}

#[tokio::test]
async fn an_answer_without_usage_is_charged_by_the_call() {
    let harness = Harness::start(&["deepseek"], &[("DEEPSEEK_COST_PER_CALL", "0.25")]).await;
    harness.providers.reply("deepseek", [Reply::TextWithoutUsage("yes")]);
    let (_, response) = harness.burst("hello").await;
    assert_eq!((response["cost"].as_f64(), response["estimated"].as_bool()), (Some(0.25), Some(true)));
    harness.stop().await;
}

/// Regression: a reservation of a cent was settled at a billion dollars.
#[tokio::test]
async fn a_provider_cannot_charge_more_than_its_request_can_cause() {
    let harness = Harness::start(&["openai"], &[("OPENAI_COST_PER_CALL", "0.01")]).await;
    harness.providers.reply(
        "openai",
        [Reply::Body(
            r#"{"choices": [{"message": {"content": "yes"}}],
                "usage": {"prompt_tokens": 9000000000000000000, "completion_tokens": 1}}"#,
        )],
    );
    let (status, response) = harness.burst("hello").await;
    assert_eq!((status, response["cost"].as_f64()), (200, Some(0.01)), "{response}");
    assert!((harness.used().await - 0.01).abs() < 1e-9);
    harness.stop().await;
}

#[tokio::test]
async fn a_stream_without_usage_costs_between_a_call_and_its_reservation() {
    for (per_call, cost) in [("0.5", 0.5), ("0", 0.000_089)] {
        let settings =
            [("OPENAI_COST_PER_CALL", per_call), ("OPENAI_INPUT_PRICE", "1"), ("OPENAI_OUTPUT_PRICE", "10")];
        let harness = Harness::start(&["openai"], &settings).await;
        harness
            .providers
            .reply("openai", [Reply::TextWithoutUsage("far more bytes than two tokens can have")]);
        let body = json!({"prompt": "hello", "maxTokens": 2, "stream": true});
        let mut events = EventStream::open(&harness, body).await;
        let done = events.last().await;
        assert_eq!((done["cost"].as_f64(), &done["estimated"]), (Some(cost), &json!(true)), "{per_call}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_call_costs_its_per_call_price_where_tokens_have_none() {
    let settings =
        [("OPENAI_COST_PER_CALL", "0.03"), ("OPENAI_INPUT_PRICE", "0"), ("OPENAI_OUTPUT_PRICE", "0")];
    let harness = Harness::start(&["openai"], &settings).await;
    harness.providers.reply("openai", [Reply::Text("yes")]);
    let (_, response) = harness.burst("hello").await;
    assert_eq!((response["cost"].as_f64(), response["estimated"].as_bool()), (Some(0.03), Some(false)));
    harness.stop().await;
}

#[tokio::test]
async fn an_empty_answer_is_charged_by_its_tokens() {
    let settings = [("OPENAI_INPUT_PRICE", "2"), ("OPENAI_OUTPUT_PRICE", "8"), ("OPENAI_COST_PER_CALL", "1")];
    let harness = Harness::start(&["openai"], &settings).await;
    harness.providers.reply("openai", [Reply::Text("  \n")]);
    assert_eq!(harness.burst("hello").await.0, 503);
    assert!((harness.used().await - 0.006).abs() < 1e-9, "{}", harness.used().await);
    harness.stop().await;
}

#[tokio::test]
async fn a_call_that_may_have_been_processed_is_charged_and_a_refusal_is_not() {
    for (fault, charged) in [
        (Reply::Status(500), false),
        (Reply::Status(400), false),
        (Reply::Cut, true),
        (Reply::Malformed, true),
    ] {
        let harness = Harness::start(&["deepseek"], &[]).await;
        harness.providers.reply("deepseek", [fault.clone()]);
        let (status, body) = harness.burst("hello").await;
        assert_eq!((status, body["error"]["code"].as_str()), (503, Some("providers_failed")), "{body}");
        assert_eq!(harness.used().await > 0.0, charged, "{fault:?}");
        assert_eq!(harness.budget().await["reserved"], 0.0, "no amount stays reserved");
        harness.stop().await;
    }
}
