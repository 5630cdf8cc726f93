//! Streamed answers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    event_stream::EventStream,
    fake_providers::Reply,
    harness::{Harness, wait_until},
};

/// Regression: the original system replayed a finished text word by word.
#[tokio::test]
async fn a_stream_is_relayed_as_it_arrives() {
    for provider in ["openai", "anthropic"] {
        let harness = Harness::start(&[provider], &[]).await;
        harness.providers.reply(provider, [Reply::Held("first second")]);
        let mut events = EventStream::open_prompt(&harness, "hello").await;
        let (name, meta) = events.next().await.unwrap();
        assert_eq!((name.as_str(), meta["provider"].as_str()), ("meta", Some(provider)));
        let (name, token) = events.next().await.unwrap();
        assert_eq!(
            (name.as_str(), token["token"].as_str()),
            ("token", Some("first ")),
            "before the provider has finished"
        );
        harness.providers.release_held();
        assert_eq!(events.next().await.unwrap().1["token"], "second");
        let (name, done) = events.next().await.unwrap();
        assert_eq!((name.as_str(), &done["usage"]), ("done", &json!({"input": 1000, "output": 500})));
        assert_eq!(events.next().await, None);
        assert!((harness.used().await - done["cost"].as_f64().unwrap()).abs() < 1e-9);
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_ends_with_an_error_and_is_charged() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Cut]);
    let mut events = EventStream::open_prompt(&harness, "hello").await;
    assert_eq!(events.next().await.unwrap().0, "meta");
    let (name, error) = events.next().await.unwrap();
    assert_eq!((name.as_str(), error["code"].as_str()), ("error", Some("provider_failed")));
    assert!(harness.used().await > 0.0);
    harness.stop().await;
}

#[tokio::test]
async fn a_stream_without_output_moves_on_to_the_next_provider() {
    let harness = Harness::start(&["deepseek", "openai"], &[]).await;
    harness.providers.reply("deepseek", [Reply::Status(503)]);
    harness.providers.reply("openai", [Reply::Text("second")]);
    let mut events = EventStream::open_prompt(&harness, "hello").await;
    let (_, meta) = events.next().await.unwrap();
    assert_eq!(meta["provider"], "openai");
    assert_eq!(meta["attempts"][0]["provider"], "deepseek");
    harness.stop().await;
}

/// Regression: a head that was slower than the hedge was cut, charged in full and counted as a failure.
#[tokio::test]
async fn the_first_stream_to_begin_is_relayed_and_the_slower_one_cancelled() {
    let harness = Harness::start(&["deepseek", "openai"], &[("HEDGE_AFTER_MS", "50")]).await;
    harness.providers.reply("deepseek", [Reply::Slow(Duration::from_millis(300), "slow but first")]);
    harness.providers.reply("openai", [Reply::Slow(Duration::from_secs(20), "late")]);
    let mut events = EventStream::open_prompt(&harness, "one").await;
    let (_, meta) = events.next().await.unwrap();
    assert_eq!((&meta["provider"], &meta["attempts"]), (&json!("deepseek"), &json!([])));
    events.last().await;
    assert_eq!(harness.providers.requests("openai").len(), 1, "the hedge was sent");

    harness.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(20), "late")]);
    harness.providers.reply("openai", [Reply::Text("early")]);
    let mut events = EventStream::open_prompt(&harness, "two").await;
    assert_eq!(events.next().await.unwrap().1["provider"], "openai");
    events.last().await;
    harness.used_after_settlement().await;
    let observed: Value = harness.service.get_json("/api/v1/providers/status").await;
    for provider in ["deepseek", "openai"] {
        let breaker = &observed["status"][provider]["circuitBreaker"];
        assert_eq!((&breaker["callCount"], &breaker["failureCount"]), (&json!(1), &json!(0)), "{provider}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_reading_does_not_keep_its_permit() {
    let harness = Harness::start(&["openai"], &[("STREAM_LIMIT_SECONDS", "1")]).await;
    harness.providers.reply("openai", [Reply::Held("never finished")]);
    let mut events = EventStream::open_prompt(&harness, "hello").await;
    wait_until("its permit is returned", || async {
        harness.service.get_json::<Value>("/api/v1/system/observability").await["callConcurrency"]["running"]
            == 0
    })
    .await;
    assert!(harness.used_after_settlement().await > 0.0);
    let error = events.last().await;
    assert!(error["message"].as_str().unwrap().contains("longer than 1 s"), "{error}");
    harness.stop().await;
}

#[tokio::test]
async fn an_overload_within_a_stream_throttles_and_charges_nothing() {
    let harness = Harness::start(&["anthropic"], &[]).await;
    harness.providers.reply(
        "anthropic",
        [Reply::Events(&[
            r#"{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}"#,
        ])],
    );
    let error = EventStream::open_prompt(&harness, "hello").await.last().await;
    assert_eq!(error["message"], "anthropic: throttled the request");
    let observed: Value = harness.service.get_json("/api/v1/system/observability").await;
    let breaker = &observed["circuitBreakers"]["anthropic"];
    assert_eq!((&breaker["throttled"], &breaker["failureCount"]), (&json!(true), &json!(0)));
    assert!(harness.used().await < 1e-9, "no text had arrived");
    harness.stop().await;
}
