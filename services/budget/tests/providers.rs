//! Calls to providers over the wire: formats, faults, money.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use phase6_chassis::ApiKeys;
use serde_json::{Value, json};
use support::{Reply, rig, rig_with_keys, until};

#[tokio::test]
async fn without_a_usable_provider_it_says_which_variable_to_set() {
    let rig = rig(&[], &[]).await;
    let (status, body) = rig.burst("hello").await;
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("no_provider")));
    let message = body["error"]["message"].as_str().unwrap();
    for variable in
        ["OPENAI_API_KEY", "DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "HUGGINGFACE_API_KEY"]
    {
        assert!(message.contains(variable), "{message}");
    }
    assert_eq!(body["traceId"].as_str().unwrap().len(), 32);
    let (_, status) = rig.get("/api/v1/providers/status").await;
    assert_eq!(status["status"]["openai"]["available"], false);
    assert_eq!(status["status"]["openai"]["reason"], "set OPENAI_API_KEY");
    assert_eq!(rig.get("/api/v1/providers/recommend").await.0, 503);
    rig.stop().await;
}

#[tokio::test]
async fn every_provider_is_spoken_to_in_its_documented_format() {
    let formats = [
        ("openai", "/openai/chat/completions", "authorization", "Bearer openai-secret-key"),
        ("deepseek", "/deepseek/chat/completions", "authorization", "Bearer deepseek-secret-key"),
        ("huggingface", "/huggingface/chat/completions", "authorization", "Bearer huggingface-secret-key"),
        ("ollama", "/ollama/chat/completions", "content-type", "application/json"),
        ("localai", "/localai/chat/completions", "content-type", "application/json"),
        ("anthropic", "/anthropic/v1/messages", "x-api-key", "anthropic-secret-key"),
        (
            "gemini",
            "/gemini/v1beta/models/gemini-2.0-flash:generateContent",
            "x-goog-api-key",
            "gemini-secret-key",
        ),
    ];
    for (provider, path, header, value) in formats {
        let rig = rig(&[provider], &[]).await;
        rig.providers.reply(provider, [Reply::Text("an answer")]);
        let body = json!({"prompt": "a question", "system": "be brief", "maxTokens": 77});
        let (status, answer) = rig.post("/api/v1/providers/burst", body).await;
        assert_eq!(status, 200, "{provider}: {answer}");
        assert_eq!(
            (answer["text"].as_str(), answer["provider"].as_str()),
            (Some("an answer"), Some(provider))
        );
        assert_eq!(answer["usage"], json!({"input": 1000, "output": 500}), "{provider}");
        let seen = rig.providers.seen(provider);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].path, path);
        assert_eq!(seen[0].headers[header], value);
        let sent = seen[0].body.to_string();
        assert!(sent.contains("a question") && sent.contains("be brief") && sent.contains("77"), "{sent}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_call_is_charged_by_its_tokens() {
    let settings = [("OPENAI_INPUT_PRICE", "2"), ("OPENAI_OUTPUT_PRICE", "8")];
    let rig = rig(&["openai"], &settings).await;
    rig.providers.reply("openai", [Reply::Text("yes")]);
    let (_, answer) = rig.burst("hello").await;
    assert_eq!((answer["cost"].as_f64(), answer["estimated"].as_bool()), (Some(0.006), Some(false)));
    let (_, budget) = rig.get("/api/v1/budget").await;
    assert_eq!(budget["budget"]["used"], 0.006);
    assert_eq!(budget["budget"]["reserved"], 0.0);
    assert_eq!(budget["budget"]["calls"], json!({"openai": 1}));
    let (_, history) = rig.get("/api/v1/budget/history").await;
    assert_eq!(
        (&history["history"][0]["provider"], &history["history"][0]["cost"]),
        (&json!("openai"), &json!(0.006))
    );
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_without_figures_is_charged_by_the_call() {
    let rig = rig(&["deepseek"], &[("DEEPSEEK_COST_PER_CALL", "0.25")]).await;
    rig.providers.reply("deepseek", [Reply::TextWithoutUsage("yes")]);
    let (_, answer) = rig.burst("hello").await;
    assert_eq!((answer["cost"].as_f64(), answer["estimated"].as_bool()), (Some(0.25), Some(true)));
    rig.stop().await;
}

/// In the original every call failed after a provider had answered.
#[tokio::test]
async fn the_next_provider_answers_when_one_fails() {
    for fault in [Reply::Status(500), Reply::Status(401), Reply::Malformed, Reply::Cut, Reply::Text("   ")] {
        let rig = rig(&["deepseek", "openai"], &[]).await;
        rig.providers.reply("deepseek", [fault.clone()]);
        rig.providers.reply("openai", [Reply::Text("second")]);
        let (status, answer) = rig.burst("hello").await;
        assert_eq!((status, answer["text"].as_str()), (200, Some("second")), "{fault:?}: {answer}");
        assert_eq!(answer["attempts"][0]["provider"], "deepseek", "{fault:?}");
        assert_eq!(rig.providers.seen("deepseek").len(), 1, "one try each");
        rig.stop().await;
    }
}

#[tokio::test]
async fn work_that_may_have_been_done_is_charged_and_a_refusal_is_not() {
    for (fault, charged) in [
        (Reply::Status(500), false),
        (Reply::Status(400), false),
        (Reply::Cut, true),
        (Reply::Malformed, true),
    ] {
        let rig = rig(&["deepseek"], &[]).await;
        rig.providers.reply("deepseek", [fault.clone()]);
        let (status, body) = rig.burst("hello").await;
        assert_eq!((status, body["error"]["code"].as_str()), (503, Some("providers_failed")), "{body}");
        assert_eq!(rig.used().await > 0.0, charged, "{fault:?}");
        let (_, budget) = rig.get("/api/v1/budget").await;
        assert_eq!(budget["budget"]["reserved"], 0.0, "nothing stays set aside");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_provider_that_asks_to_wait_is_not_called_until_then() {
    let rig = rig(&["deepseek"], &[]).await;
    rig.providers.reply("deepseek", [Reply::Throttle(30), Reply::Text("too early")]);
    let (status, body) = rig.burst("one").await;
    assert_eq!(status, 503, "{body}");
    let (status, body) = rig.burst("two").await;
    assert_eq!(status, 503);
    assert!(body["error"]["message"].as_str().unwrap().contains("asked to wait"), "{body}");
    assert_eq!(rig.providers.seen("deepseek").len(), 1);
    let (_, shown) = rig.get("/api/v1/system/observability").await;
    assert_eq!(shown["circuitBreakers"]["deepseek"]["throttled"], true);
    assert_eq!(shown["circuitBreakers"]["deepseek"]["status"], "closed", "a 429 is no failure");
    rig.stop().await;
}

#[tokio::test]
async fn a_failing_provider_s_breaker_opens_and_it_is_left_alone() {
    let rig = rig(&["deepseek"], &[]).await;
    rig.providers.reply("deepseek", [Reply::Status(500)]);
    for i in 0..15 {
        rig.burst(&format!("question {i}")).await;
    }
    assert_eq!(rig.providers.seen("deepseek").len(), 10, "the default minimum of calls");
    let (_, status) = rig.get("/api/v1/providers/status").await;
    assert_eq!(status["status"]["deepseek"]["circuitBreaker"]["status"], "open");
    assert_eq!(status["status"]["deepseek"]["available"], false);
    rig.stop().await;
}

#[tokio::test]
async fn a_dead_provider_is_never_in_the_way_of_a_live_one() {
    // Nothing listens on port 1.
    let settings = [("DEEPSEEK_API_KEY", "k"), ("DEEPSEEK_BASE_URL", "http://127.0.0.1:1")];
    let rig = rig(&["openai"], &settings).await;
    rig.providers.reply("openai", [Reply::Text("alive")]);
    let started = Instant::now();
    let (status, answer) = rig.burst("hello").await;
    assert_eq!((status, answer["text"].as_str()), (200, Some("alive")), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(2));
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_provider_is_hedged_with_another_one() {
    let rig = rig(&["deepseek", "openai"], &[("HEDGE_AFTER_MS", "50")]).await;
    rig.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(20), "late")]);
    rig.providers.reply("openai", [Reply::Text("early")]);
    let (_, answer) = rig.burst("hello").await;
    assert_eq!(answer["text"], "early");
    assert_eq!((rig.providers.seen("deepseek").len(), rig.providers.seen("openai").len()), (1, 1));
    until("the abandoned call is settled", || async {
        rig.get("/api/v1/budget").await.1["budget"]["reserved"] == 0.0
    })
    .await;
    let (_, budget) = rig.get("/api/v1/budget").await;
    assert_eq!(budget["budget"]["calls"], json!({"deepseek": 1, "openai": 1}));
    rig.stop().await;
}

#[tokio::test]
async fn the_daily_limit_holds_under_concurrency() {
    let settings = [
        ("DAILY_BUDGET_LIMIT", "0.10"),
        ("OPENAI_COST_PER_CALL", "0.03"),
        ("OPENAI_INPUT_PRICE", "0"),
        ("OPENAI_OUTPUT_PRICE", "0"),
        ("PROVIDER_MAX_CONCURRENCY", "12"),
    ];
    let rig = rig(&["openai"], &settings).await;
    rig.providers.reply("openai", [Reply::TextWithoutUsage("yes")]);
    let prompts: Vec<String> = (0..20).map(|i| format!("question {i}")).collect();
    let answers = futures_util::future::join_all(prompts.iter().map(|prompt| rig.burst(prompt))).await;
    let granted = answers.iter().filter(|(status, _)| *status == 200).count();
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 402).collect();
    assert_eq!((granted, refused.len()), (3, 17), "{answers:?}");
    assert_eq!(refused[0].1["error"]["code"], "budget_exceeded");
    assert_eq!(rig.providers.seen("openai").len(), 3, "a refused call is not made");
    assert!((rig.used().await - 0.09).abs() < 1e-9);
    rig.stop().await;
}

#[tokio::test]
async fn a_limit_of_nothing_means_nothing_but_free_calls_go_on() {
    let rig = rig(&["openai", "ollama"], &[("DAILY_BUDGET_LIMIT", "0")]).await;
    rig.providers.reply("openai", [Reply::Text("paid")]);
    rig.providers.reply("ollama", [Reply::Text("free")]);
    let paid = json!({"prompt": "hello", "provider": "openai"});
    assert_eq!(rig.post("/api/v1/providers/burst", paid).await.0, 402);
    let (status, answer) = rig.burst("hello").await;
    assert_eq!((status, answer["text"].as_str(), answer["cost"].as_f64()), (200, Some("free"), Some(0.0)));
    let (_, budget) = rig.get("/api/v1/budget").await;
    assert_eq!(budget["budget"]["blocked"], true);
    rig.stop().await;
}

#[tokio::test]
async fn the_same_question_at_the_same_time_is_one_call() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Slow(Duration::from_millis(100), "once")]);
    let answers = futures_util::future::join_all((0..10).map(|_| rig.burst("the same"))).await;
    assert!(answers.iter().all(|(status, answer)| *status == 200 && answer["text"] == "once"), "{answers:?}");
    assert_eq!(rig.providers.seen("openai").len(), 1);
    let joined = answers.iter().filter(|(_, answer)| answer["joined"] == true).count();
    assert_eq!(joined, 9);
    rig.stop().await;
}

#[tokio::test]
async fn a_kept_answer_is_given_again_and_failures_are_not_kept() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Status(500), Reply::Text("good")]);
    assert_eq!(rig.burst("hello").await.0, 503);
    let (_, first) = rig.burst("hello").await;
    assert_eq!((&first["cached"], &first["text"]), (&json!(false), &json!("good")));
    let (_, second) = rig.burst("hello").await;
    assert_eq!(
        (&second["cached"], &second["text"], &second["cost"]),
        (&json!(true), &json!("good"), &json!(0.0))
    );
    let other = json!({"prompt": "hello", "criticality": "high"});
    assert_eq!(rig.post("/api/v1/providers/burst", other).await.1["cached"], false);
    for _ in 0..2 {
        let never = json!({"prompt": "again", "ttlSeconds": 0});
        assert_eq!(rig.post("/api/v1/providers/burst", never).await.1["cached"], false);
    }
    rig.stop().await;
}

#[tokio::test]
async fn kept_answers_are_not_shared_between_tenants() {
    let keys: ApiKeys = format!("{}\n{}", ApiKeys::line("red", "red-key"), ApiKeys::line("blue", "blue-key"))
        .parse()
        .unwrap();
    let rig = rig_with_keys(&["openai"], &[], keys).await;
    rig.providers.reply("openai", [Reply::Text("for red"), Reply::Text("for blue")]);
    let ask = |key: &'static str| {
        let request = rig.http.post(format!("{}/api/v1/providers/burst", rig.base)).header("x-api-key", key);
        async move {
            request.json(&json!({"prompt": "mine"})).send().await.unwrap().json::<Value>().await.unwrap()
        }
    };
    assert_eq!(ask("red-key").await["text"], "for red");
    assert_eq!(ask("blue-key").await["text"], "for blue");
    assert_eq!(ask("red-key").await["text"], "for red");
    assert_eq!(ask("nobody-s").await["error"]["code"], "unauthorized");
    rig.stop().await;
}

// ---- streams

struct Events {
    stream: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Events {
    /// The next event: its name and data.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap_or_default()
                        .trim()
                        .to_owned()
                };
                let told = (field("event:"), serde_json::from_str(&field("data:")).unwrap_or(Value::Null));
                let rest = rest.to_owned();
                self.text = rest;
                return Some(told);
            }
            let more = tokio::time::timeout(Duration::from_secs(10), self.stream.next()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&more.ok()?).unwrap());
        }
    }
}

async fn stream(rig: &support::Rig, prompt: &str) -> Events {
    let answer = rig
        .http
        .post(format!("{}/api/v1/providers/burst", rig.base))
        .json(&json!({"prompt": prompt, "stream": true}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    Events { stream: Box::pin(answer.bytes_stream()), text: String::new() }
}

/// The original replayed a finished text word by word.
#[tokio::test]
async fn a_stream_is_passed_on_as_it_arrives() {
    for provider in ["openai", "anthropic"] {
        let rig = rig(&[provider], &[]).await;
        rig.providers.reply(provider, [Reply::Held("first second")]);
        let mut events = stream(&rig, "hello").await;
        let (name, meta) = events.next().await.unwrap();
        assert_eq!((name.as_str(), meta["provider"].as_str()), ("meta", Some(provider)));
        let (name, token) = events.next().await.unwrap();
        assert_eq!(
            (name.as_str(), token["token"].as_str()),
            ("token", Some("first ")),
            "before the provider is done"
        );
        rig.providers.open_gate();
        assert_eq!(events.next().await.unwrap().1["token"], "second");
        let (name, done) = events.next().await.unwrap();
        assert_eq!((name.as_str(), &done["usage"]), ("done", &json!({"input": 1000, "output": 500})));
        assert_eq!(events.next().await, None);
        assert!((rig.used().await - done["cost"].as_f64().unwrap()).abs() < 1e-9);
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_stream_in_the_third_format_is_complete_too() {
    let rig = rig(&["gemini"], &[]).await;
    rig.providers.reply("gemini", [Reply::Text("one two ")]);
    let mut events = stream(&rig, "hello").await;
    let mut text = String::new();
    while let Some((name, data)) = events.next().await {
        if name == "token" {
            text.push_str(data["token"].as_str().unwrap());
        }
    }
    assert_eq!(text, "one two ");
    assert!(rig.providers.seen("gemini")[0].path.ends_with(":streamGenerateContent?alt=sse"));
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_cut_says_so_and_is_charged() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Cut]);
    let mut events = stream(&rig, "hello").await;
    assert_eq!(events.next().await.unwrap().0, "meta");
    let (name, error) = events.next().await.unwrap();
    assert_eq!((name.as_str(), error["code"].as_str()), ("error", Some("provider_failed")));
    assert!(rig.used().await > 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_moves_on_to_the_next_provider_before_it_began() {
    let rig = rig(&["deepseek", "openai"], &[]).await;
    rig.providers.reply("deepseek", [Reply::Status(503)]);
    rig.providers.reply("openai", [Reply::Text("second")]);
    let mut events = stream(&rig, "hello").await;
    let (_, meta) = events.next().await.unwrap();
    assert_eq!(meta["provider"], "openai");
    assert_eq!(meta["attempts"][0]["provider"], "deepseek");
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_set_aside() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Held("never finished")]);
    let mut events = stream(&rig, "hello").await;
    events.next().await.unwrap();
    drop(events);
    until("the call is settled", || async {
        let (_, budget) = rig.get("/api/v1/budget").await;
        budget["budget"]["reserved"] == 0.0 && budget["budget"]["used"].as_f64().unwrap() > 0.0
    })
    .await;
    rig.providers.open_gate();
    rig.stop().await;
}

#[tokio::test]
async fn keys_never_stand_in_an_answer() {
    let rig = rig(&["deepseek", "openai"], &[]).await;
    rig.providers.reply("deepseek", [Reply::Status(401)]);
    rig.providers.reply("openai", [Reply::Malformed]);
    let mut texts = vec![rig.burst("hello").await.1.to_string()];
    for path in
        ["/api/v1/providers/status", "/api/v1/system/observability", "/api/v1/budget/export", "/metrics"]
    {
        texts.push(rig.get(path).await.1.to_string());
    }
    assert!(texts.iter().all(|text| !text.contains("secret-key")), "{texts:?}");
    rig.stop().await;
}
