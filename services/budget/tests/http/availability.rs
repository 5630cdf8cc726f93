//! Availability of providers, and secrets that are never shown.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    fake_providers::{ProbeReply, Reply},
    harness::{Harness, status_and_json},
};

#[tokio::test]
async fn without_a_usable_provider_an_error_names_the_settings() {
    let harness = Harness::start(&[], &[]).await;
    let (status, body) = harness.burst("hello").await;
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("no_provider")));
    let message = body["error"]["message"].as_str().unwrap();
    for setting in
        ["OPENAI_API_KEY", "DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "HUGGINGFACE_API_KEY"]
    {
        assert!(message.contains(setting), "{message}");
    }
    assert_eq!(body["traceId"].as_str().unwrap().len(), 32);
    let status: Value = harness.service.get_json("/api/v1/providers/status").await;
    assert_eq!(status["status"]["openai"]["available"], false);
    assert_eq!(status["status"]["openai"]["reason"], "set OPENAI_API_KEY");
    assert_eq!(harness.service.get("/api/v1/providers/recommend").await.status, 503);
    harness.stop().await;
}

#[tokio::test]
async fn the_error_names_what_the_requested_providers_lack() {
    let harness = Harness::start(&["ollama"], &[]).await;
    let message = |body: Value| {
        let harness = &harness;
        async move {
            let (status, response) =
                status_and_json(&harness.service.post("/api/v1/providers/burst", &body).await);
            assert_eq!(
                (status, response["error"]["code"].as_str()),
                (503, Some("no_provider")),
                "{response}"
            );
            response["error"]["message"].as_str().unwrap().to_owned()
        }
    };
    let only = message(json!({"prompt": "hello", "provider": "gemini"})).await;
    assert_eq!(only, "gemini: set GEMINI_API_KEY");
    let critical = message(json!({"prompt": "hello", "criticality": "critical"})).await;
    assert!(
        critical.starts_with(
            "none of the providers for critical criticality is usable: openai: set OPENAI_API_KEY;"
        ),
        "{critical}"
    );
    harness.stop().await;
}

#[tokio::test]
async fn a_provider_that_refuses_our_key_or_model_is_not_called_for_a_while() {
    for (status, setting) in [(401, "DEEPSEEK_API_KEY"), (403, "DEEPSEEK_API_KEY"), (404, "DEEPSEEK_MODEL")] {
        let harness = Harness::start(&["deepseek", "openai"], &[]).await;
        harness.providers.reply("deepseek", [Reply::Status(status)]);
        harness.providers.reply("openai", [Reply::Text("second")]);
        for prompt in ["one", "two", "three"] {
            assert_eq!(harness.burst(prompt).await.1["text"], "second");
        }
        assert_eq!(harness.providers.requests("deepseek").len(), 1, "called once, not with every prompt");
        let observed: Value = harness.service.get_json("/api/v1/providers/status").await;
        let deepseek = &observed["status"]["deepseek"];
        assert_eq!(deepseek["available"], false);
        assert!(deepseek["reason"].as_str().unwrap().contains(setting), "{deepseek}");
        let only = json!({"prompt": "four", "provider": "deepseek"});
        let (code, refused) = status_and_json(&harness.service.post("/api/v1/providers/burst", &only).await);
        assert!(code == 503 && refused["error"]["message"].as_str().unwrap().contains(setting), "{refused}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_probe_sends_the_key_and_explains_a_wrong_address() {
    let harness = Harness::start(&["localai"], &[]).await;
    harness.providers.reply_to_probes("localai", ProbeReply::Status(404));
    let (status, response) = harness.burst("hello").await;
    let message = response["error"]["message"].as_str().unwrap();
    assert_eq!((status, response["error"]["code"].as_str()), (503, Some("no_provider")));
    assert_eq!(harness.providers.probes("localai")[0]["authorization"], "Bearer localai-secret-key");
    let observed: Value = harness.service.get_json("/api/v1/providers/status").await;
    let reason = observed["status"]["localai"]["reason"].as_str().unwrap();
    assert!(reason.contains("/v1") && message.contains("/v1"), "{reason} {message}");
    harness.stop().await;
}

#[tokio::test]
async fn a_local_server_that_hangs_does_not_delay_preferred_providers() {
    let harness = Harness::start(&["deepseek", "ollama"], &[]).await;
    harness.providers.reply_to_probes("ollama", ProbeReply::Silent);
    harness.providers.reply("deepseek", [Reply::Text("alive")]);
    assert_eq!(harness.burst("hello").await.1["text"], "alive");
    assert_eq!(
        harness.providers.probes("ollama").len(),
        0,
        "no request waits for a probe that it does not need"
    );
    harness.stop().await;
}

#[tokio::test]
async fn an_unreachable_provider_does_not_delay_the_next_one() {
    // Nothing listens on port 1.
    let settings = [("DEEPSEEK_API_KEY", "k"), ("DEEPSEEK_BASE_URL", "http://127.0.0.1:1")];
    let harness = Harness::start(&["openai"], &settings).await;
    harness.providers.reply("openai", [Reply::Text("alive")]);
    let started = Instant::now();
    let (status, response) = harness.burst("hello").await;
    assert_eq!((status, response["text"].as_str()), (200, Some("alive")), "{response}");
    assert!(started.elapsed() < Duration::from_secs(2));
    harness.stop().await;
}

#[tokio::test]
async fn a_password_in_an_address_is_never_shown() {
    let address = "http://user:s3cret@127.0.0.1:1/v1";
    let harness = Harness::start(&[], &[("OLLAMA_ENABLED", "true"), ("OLLAMA_BASE_URL", address)]).await;
    let mut texts = vec![harness.burst("hello").await.1.to_string()];
    for path in
        ["/api/v1/providers/status", "/api/v1/providers/recommend", "/api/v1/providers/performance-stream"]
    {
        texts.push(harness.service.get(path).await.text().to_owned());
    }
    assert!(texts[0].contains("http://127.0.0.1:1/v1"), "{texts:?}");
    assert!(texts.iter().all(|text| !text.contains("s3cret")), "{texts:?}");
    harness.stop().await;
}

#[tokio::test]
async fn responses_never_show_api_keys() {
    let harness = Harness::start(&["deepseek", "openai"], &[]).await;
    harness.providers.reply("deepseek", [Reply::Status(401)]);
    harness.providers.reply("openai", [Reply::Malformed]);
    let mut texts = vec![harness.burst("hello").await.1.to_string()];
    for path in
        ["/api/v1/providers/status", "/api/v1/system/observability", "/api/v1/budget/export", "/metrics"]
    {
        texts.push(harness.service.get(path).await.text().to_owned());
    }
    assert!(texts.iter().all(|text| !text.contains("secret-key")), "{texts:?}");
    harness.stop().await;
}
