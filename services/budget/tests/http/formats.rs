//! Wire formats of the providers.

use serde_json::json;

use crate::{
    event_stream::EventStream,
    fake_providers::Reply,
    harness::{Harness, status_and_json},
};

#[tokio::test]
async fn every_provider_gets_its_documented_format() {
    let formats = [
        ("openai", "/openai/chat/completions", "authorization", "Bearer openai-secret-key"),
        ("deepseek", "/deepseek/chat/completions", "authorization", "Bearer deepseek-secret-key"),
        ("huggingface", "/huggingface/chat/completions", "authorization", "Bearer huggingface-secret-key"),
        ("ollama", "/ollama/chat/completions", "content-type", "application/json"),
        ("localai", "/localai/chat/completions", "content-type", "application/json"),
        ("anthropic", "/anthropic/v1/messages", "x-api-key", "anthropic-secret-key"),
        (
            "gemini",
            "/gemini/v1beta/models/gemini-3.5-flash-lite:generateContent",
            "x-goog-api-key",
            "gemini-secret-key",
        ),
    ];
    for (provider, path, header, value) in formats {
        let harness = Harness::start(&[provider], &[]).await;
        harness.providers.reply(provider, [Reply::Text("an answer")]);
        let body = json!({"prompt": "a question", "system": "be brief", "maxTokens": 77});
        let (status, response) =
            status_and_json(&harness.service.post("/api/v1/providers/burst", &body).await);
        assert_eq!(status, 200, "{provider}: {response}");
        assert_eq!(
            (response["text"].as_str(), response["provider"].as_str()),
            (Some("an answer"), Some(provider))
        );
        assert_eq!(response["usage"], json!({"input": 1000, "output": 500}), "{provider}");
        let requests = harness.providers.requests(provider);
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].path, path);
        assert_eq!(requests[0].headers[header], value);
        let sent = requests[0].body.to_string();
        assert!(sent.contains("a question") && sent.contains("be brief") && sent.contains("77"), "{sent}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_stream_without_an_end_event_is_complete() {
    let harness = Harness::start(&["gemini"], &[]).await;
    harness.providers.reply("gemini", [Reply::Text("one two ")]);
    let mut events = EventStream::open_prompt(&harness, "hello").await;
    let mut text = String::new();
    while let Some((name, data)) = events.next().await {
        if name == "token" {
            text.push_str(data["token"].as_str().unwrap());
        }
    }
    assert_eq!(text, "one two ");
    assert!(harness.providers.requests("gemini")[0].path.ends_with(":streamGenerateContent?alt=sse"));
    harness.stop().await;
}

#[tokio::test]
async fn a_call_is_part_of_the_trace_of_its_request() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Text("yes")]);
    let (_, response) = harness.burst("hello").await;
    EventStream::open_prompt(&harness, "hello").await.last().await;
    let requests = harness.providers.requests("openai");
    let trace = |call: usize| requests[call].headers["traceparent"].to_str().unwrap()[3..35].to_owned();
    assert_eq!(trace(0), response["traceId"].as_str().unwrap());
    assert_ne!(trace(1), trace(0));
    harness.stop().await;
}
