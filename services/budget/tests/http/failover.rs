//! Failing, throttling and slow providers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    event_stream::EventStream,
    fake_providers::Reply,
    harness::{Harness, wait_until},
};

/// Regression: in the original system every call failed after a provider had answered.
#[tokio::test]
async fn the_next_provider_answers_when_one_fails() {
    for fault in [Reply::Status(500), Reply::Status(401), Reply::Malformed, Reply::Cut, Reply::Text("   ")] {
        let harness = Harness::start(&["deepseek", "openai"], &[]).await;
        harness.providers.reply("deepseek", [fault.clone()]);
        harness.providers.reply("openai", [Reply::Text("second")]);
        let (status, response) = harness.burst("hello").await;
        assert_eq!((status, response["text"].as_str()), (200, Some("second")), "{fault:?}: {response}");
        assert_eq!(response["attempts"][0]["provider"], "deepseek", "{fault:?}");
        assert_eq!(harness.providers.requests("deepseek").len(), 1, "each provider is called once");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_provider_that_asks_to_wait_is_not_called_until_then() {
    let harness = Harness::start(&["deepseek"], &[]).await;
    harness.providers.reply("deepseek", [Reply::Throttle(30), Reply::Text("too early")]);
    let (status, body) = harness.burst("one").await;
    assert_eq!(status, 503, "{body}");
    let (status, body) = harness.burst("two").await;
    assert_eq!(status, 503);
    assert!(body["error"]["message"].as_str().unwrap().contains("peer is throttling calls"), "{body}");
    assert_eq!(harness.providers.requests("deepseek").len(), 1);
    let observed: Value = harness.service.get_json("/api/v1/system/observability").await;
    assert_eq!(observed["circuitBreakers"]["deepseek"]["throttled"], true);
    assert_eq!(observed["circuitBreakers"]["deepseek"]["status"], "closed", "a 429 is not a failure");
    harness.stop().await;
}

/// Regression: the wait that a provider asked for was passed on unlimited, and overflowed.
#[tokio::test]
async fn a_wait_is_limited_to_a_day() {
    let harness = Harness::start(&["deepseek"], &[]).await;
    harness.providers.reply("deepseek", [Reply::Throttle(u64::MAX)]);
    for _ in 0..2 {
        let prompt = json!({"prompt": "hello"});
        let response = harness.service.post("/api/v1/providers/burst", &prompt).await;
        assert_eq!(response.status, 503);
        assert_eq!(response.headers["retry-after"], "86400");
        let body: Value = response.json();
        assert!(body["error"]["message"].as_str().unwrap().contains("deepseek: "), "{body}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn the_breaker_of_a_failing_provider_opens() {
    let harness = Harness::start(&["deepseek"], &[]).await;
    harness.providers.reply("deepseek", [Reply::Status(500)]);
    for i in 0..15 {
        harness.burst(&format!("prompt {i}")).await;
    }
    assert_eq!(
        harness.providers.requests("deepseek").len(),
        10,
        "the breaker opens after its default minimum of calls"
    );
    let status: Value = harness.service.get_json("/api/v1/providers/status").await;
    assert_eq!(status["status"]["deepseek"]["circuitBreaker"]["status"], "open");
    assert_eq!(status["status"]["deepseek"]["available"], false);
    harness.stop().await;
}

#[tokio::test]
async fn a_slow_provider_is_hedged_with_the_next_one() {
    let harness = Harness::start(&["deepseek", "openai"], &[("HEDGE_AFTER_MS", "50")]).await;
    harness.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(20), "late")]);
    harness.providers.reply("openai", [Reply::Text("early")]);
    let (_, response) = harness.burst("hello").await;
    assert_eq!(response["text"], "early");
    assert_eq!(
        (harness.providers.requests("deepseek").len(), harness.providers.requests("openai").len()),
        (1, 1)
    );
    wait_until("the abandoned call is settled", || async { harness.budget().await["reserved"] == 0.0 }).await;
    assert_eq!(harness.budget().await["calls"], json!({"deepseek": 1, "openai": 1}));
    harness.stop().await;
}

#[tokio::test]
async fn a_free_provider_is_never_hedged_with_a_paid_one() {
    for streamed in [false, true] {
        let harness = Harness::start(&["ollama", "openai"], &[("HEDGE_AFTER_MS", "10")]).await;
        harness.providers.reply("ollama", [Reply::Slow(Duration::from_millis(300), "free")]);
        harness.providers.reply("openai", [Reply::Text("paid")]);
        let body = json!({"prompt": "hello", "criticality": "low", "stream": streamed});
        if streamed {
            let mut events = EventStream::open(&harness, body).await;
            assert_eq!(events.next().await.unwrap().1["provider"], "ollama");
            events.last().await;
        } else {
            assert_eq!(
                harness.service.post_json::<Value>("/api/v1/providers/burst", &body).await["text"],
                "free"
            );
        }
        assert_eq!(harness.providers.requests("openai").len(), 0);
        harness.stop().await;
    }
}

/// Regression: a second provider was called, and paid, for a caller whose time limit had passed.
#[tokio::test]
async fn no_call_is_sent_when_the_time_limit_has_passed() {
    let settings = [("ANSWER_LIMIT_SECONDS", "2"), ("HEDGE_AFTER_MS", "60000")];
    let harness = Harness::start(&["deepseek", "openai"], &settings).await;
    harness.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(20), "late")]);
    harness.providers.reply("openai", [Reply::Text("too late")]);
    let started = Instant::now();
    let (status, response) = harness.burst("hello").await;
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!((status, response["error"]["code"].as_str()), (503, Some("providers_failed")), "{response}");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("openai: no time was left"), "{message}");
    assert_eq!(harness.providers.requests("openai").len(), 0);
    harness.stop().await;
}

#[tokio::test]
async fn no_stream_begins_with_too_little_time_left() {
    let harness = Harness::start(&["deepseek"], &[]).await;
    let (status, response) = harness.burst_within(500, json!({"prompt": "hello", "stream": true})).await;
    assert_eq!((status, response["error"]["code"].as_str()), (503, Some("providers_failed")), "{response}");
    assert!(response["error"]["message"].as_str().unwrap().contains("no time was left"), "{response}");
    assert_eq!(harness.providers.requests("deepseek").len(), 0);
    harness.stop().await;
}
