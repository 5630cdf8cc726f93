//! Calls to providers over the wire: formats, faults, money.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use phase6_chassis::ApiKeys;
use phase6_store::{Row, sql};
use serde_json::{Value, json};
use support::{Models, Reply, rig, rig_with_keys, until};

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
            "/gemini/v1beta/models/gemini-3.5-flash-lite:generateContent",
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

/// What was set aside for a cent was settled at a billion dollars, and the daily limit with it.
#[tokio::test]
async fn a_provider_cannot_charge_more_than_its_request_can_cause() {
    let rig = rig(&["openai"], &[("OPENAI_COST_PER_CALL", "0.01")]).await;
    rig.providers.reply(
        "openai",
        [Reply::Body(
            r#"{"choices": [{"message": {"content": "yes"}}],
                "usage": {"prompt_tokens": 9000000000000000000, "completion_tokens": 1}}"#,
        )],
    );
    let (status, answer) = rig.burst("hello").await;
    assert_eq!((status, answer["cost"].as_f64()), (200, Some(0.01)), "{answer}");
    assert!((rig.used().await - 0.01).abs() < 1e-9);
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_without_figures_costs_at_least_a_call_and_at_most_what_was_set_aside() {
    for (per_call, cost) in [("0.5", 0.5), ("0", 0.000_089)] {
        let settings =
            [("OPENAI_COST_PER_CALL", per_call), ("OPENAI_INPUT_PRICE", "1"), ("OPENAI_OUTPUT_PRICE", "10")];
        let rig = rig(&["openai"], &settings).await;
        rig.providers.reply("openai", [Reply::TextWithoutUsage("far more bytes than two tokens can have")]);
        let body = json!({"prompt": "hello", "maxTokens": 2, "stream": true});
        let mut events = stream_of(&rig, body).await;
        let done = events.last().await;
        assert_eq!((done["cost"].as_f64(), &done["estimated"]), (Some(cost), &json!(true)), "{per_call}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_call_has_its_price_where_tokens_have_none() {
    let settings =
        [("OPENAI_COST_PER_CALL", "0.03"), ("OPENAI_INPUT_PRICE", "0"), ("OPENAI_OUTPUT_PRICE", "0")];
    let rig = rig(&["openai"], &settings).await;
    rig.providers.reply("openai", [Reply::Text("yes")]);
    let (_, answer) = rig.burst("hello").await;
    assert_eq!((answer["cost"].as_f64(), answer["estimated"].as_bool()), (Some(0.03), Some(false)));
    rig.stop().await;
}

#[tokio::test]
async fn an_empty_answer_is_charged_by_its_tokens() {
    let settings = [("OPENAI_INPUT_PRICE", "2"), ("OPENAI_OUTPUT_PRICE", "8"), ("OPENAI_COST_PER_CALL", "1")];
    let rig = rig(&["openai"], &settings).await;
    rig.providers.reply("openai", [Reply::Text("  \n")]);
    assert_eq!(rig.burst("hello").await.0, 503);
    assert!((rig.used().await - 0.006).abs() < 1e-9, "{}", rig.used().await);
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
    assert!(body["error"]["message"].as_str().unwrap().contains("peer is throttling calls"), "{body}");
    assert_eq!(rig.providers.seen("deepseek").len(), 1);
    let (_, shown) = rig.get("/api/v1/system/observability").await;
    assert_eq!(shown["circuitBreakers"]["deepseek"]["throttled"], true);
    assert_eq!(shown["circuitBreakers"]["deepseek"]["status"], "closed", "a 429 is no failure");
    rig.stop().await;
}

/// It was passed on as it was, and overflowed.
#[tokio::test]
async fn a_wait_beyond_reason_is_told_as_a_day() {
    let rig = rig(&["deepseek"], &[]).await;
    rig.providers.reply("deepseek", [Reply::Throttle(u64::MAX)]);
    for _ in 0..2 {
        let request = rig.http.post(format!("{}/api/v1/providers/burst", rig.base));
        let answer = request.json(&json!({"prompt": "hello"})).send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "86400");
        let body: Value = answer.json().await.unwrap();
        assert!(body["error"]["message"].as_str().unwrap().contains("deepseek: "), "{body}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_provider_that_refuses_our_key_or_model_is_left_alone_for_a_while() {
    for (status, setting) in [(401, "DEEPSEEK_API_KEY"), (403, "DEEPSEEK_API_KEY"), (404, "DEEPSEEK_MODEL")] {
        let rig = rig(&["deepseek", "openai"], &[]).await;
        rig.providers.reply("deepseek", [Reply::Status(status)]);
        rig.providers.reply("openai", [Reply::Text("second")]);
        for question in ["one", "two", "three"] {
            assert_eq!(rig.burst(question).await.1["text"], "second");
        }
        assert_eq!(rig.providers.seen("deepseek").len(), 1, "not tried first every time");
        let (_, shown) = rig.get("/api/v1/providers/status").await;
        let deepseek = &shown["status"]["deepseek"];
        assert_eq!(deepseek["available"], false);
        assert!(deepseek["reason"].as_str().unwrap().contains(setting), "{deepseek}");
        let only = json!({"prompt": "four", "provider": "deepseek"});
        let (code, refused) = rig.post("/api/v1/providers/burst", only).await;
        assert!(code == 503 && refused["error"]["message"].as_str().unwrap().contains(setting), "{refused}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn the_message_names_what_is_missing_for_what_was_asked() {
    let rig = rig(&["ollama"], &[]).await;
    let message = |body: Value| {
        let rig = &rig;
        async move {
            let (status, answer) = rig.post("/api/v1/providers/burst", body).await;
            assert_eq!((status, answer["error"]["code"].as_str()), (503, Some("no_provider")), "{answer}");
            answer["error"]["message"].as_str().unwrap().to_owned()
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
    rig.stop().await;
}

#[tokio::test]
async fn a_local_server_is_asked_with_its_key_and_a_wrong_address_is_explained() {
    let rig = rig(&["localai"], &[]).await;
    rig.providers.models("localai", Models::Status(404));
    let (status, answer) = rig.burst("hello").await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!((status, answer["error"]["code"].as_str()), (503, Some("no_provider")));
    assert_eq!(rig.providers.probes("localai")[0]["authorization"], "Bearer localai-secret-key");
    let (_, shown) = rig.get("/api/v1/providers/status").await;
    let reason = shown["status"]["localai"]["reason"].as_str().unwrap();
    assert!(reason.contains("/v1") && message.contains("/v1"), "{reason} {message}");
    rig.stop().await;
}

#[tokio::test]
async fn a_local_server_that_hangs_does_not_delay_those_before_it() {
    let rig = rig(&["deepseek", "ollama"], &[]).await;
    rig.providers.models("ollama", Models::Silent);
    rig.providers.reply("deepseek", [Reply::Text("alive")]);
    assert_eq!(rig.burst("hello").await.1["text"], "alive");
    assert_eq!(rig.providers.probes("ollama").len(), 0, "nobody waits for an answer that is not needed");
    rig.stop().await;
}

#[tokio::test]
async fn a_password_in_an_address_is_never_shown() {
    let address = "http://user:s3cret@127.0.0.1:1/v1";
    let rig = rig(&[], &[("OLLAMA_ENABLED", "true"), ("OLLAMA_BASE_URL", address)]).await;
    let mut texts = vec![rig.burst("hello").await.1.to_string()];
    for path in
        ["/api/v1/providers/status", "/api/v1/providers/recommend", "/api/v1/providers/performance-stream"]
    {
        texts.push(rig.get(path).await.1.to_string());
    }
    assert!(texts[0].contains("http://127.0.0.1:1/v1"), "{texts:?}");
    assert!(texts.iter().all(|text| !text.contains("s3cret")), "{texts:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_call_is_part_of_the_request_s_trace() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Text("yes")]);
    let (_, answer) = rig.burst("hello").await;
    stream(&rig, "hello").await.last().await;
    let seen = rig.providers.seen("openai");
    let trace = |call: usize| seen[call].headers["traceparent"].to_str().unwrap()[3..35].to_owned();
    assert_eq!(trace(0), answer["traceId"].as_str().unwrap());
    assert_ne!(trace(1), trace(0));
    rig.stop().await;
}

/// A second provider was called, and paid, for a caller who had been told that it took too long.
#[tokio::test]
async fn no_call_begins_when_its_caller_no_longer_waits() {
    let settings = [("ANSWER_LIMIT_SECONDS", "2"), ("HEDGE_AFTER_MS", "60000")];
    let rig = rig(&["deepseek", "openai"], &settings).await;
    rig.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(20), "late")]);
    rig.providers.reply("openai", [Reply::Text("too late")]);
    let started = Instant::now();
    let (status, answer) = rig.burst("hello").await;
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!((status, answer["error"]["code"].as_str()), (503, Some("providers_failed")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("openai: no time was left"), "{message}");
    assert_eq!(rig.providers.seen("openai").len(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn no_stream_begins_that_its_caller_would_not_wait_for() {
    let rig = rig(&["deepseek"], &[]).await;
    let (status, answer) = rig.burst_within(500, json!({"prompt": "hello", "stream": true})).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (503, Some("providers_failed")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("no time was left"), "{answer}");
    assert_eq!(rig.providers.seen("deepseek").len(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_caller_in_a_hurry_takes_no_answer_from_those_who_wait_for_the_same() {
    let rig = rig(&["deepseek"], &[]).await;
    rig.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(1), "in time")]);
    let (status, answer) = rig.burst_within(300, json!({"prompt": "hello"})).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (504, Some("deadline_exceeded")), "{answer}");
    let (status, answer) = rig.burst("hello").await;
    assert_eq!((status, answer["text"].as_str()), (200, Some("in time")), "{answer}");
    assert_eq!(rig.providers.seen("deepseek").len(), 1);
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
async fn what_is_free_is_never_hedged_with_what_is_paid() {
    for streamed in [false, true] {
        let rig = rig(&["ollama", "openai"], &[("HEDGE_AFTER_MS", "10")]).await;
        rig.providers.reply("ollama", [Reply::Slow(Duration::from_millis(300), "free")]);
        rig.providers.reply("openai", [Reply::Text("paid")]);
        let body = json!({"prompt": "hello", "criticality": "low", "stream": streamed});
        if streamed {
            let mut events = stream_of(&rig, body).await;
            assert_eq!(events.next().await.unwrap().1["provider"], "ollama");
            events.last().await;
        } else {
            assert_eq!(rig.post("/api/v1/providers/burst", body).await.1["text"], "free");
        }
        assert_eq!(rig.providers.seen("openai").len(), 0);
        rig.stop().await;
    }
}

/// It went on in the caller's own future: whoever hung up between the end of a call and its record
/// left the amount set aside for ten minutes.
#[tokio::test]
async fn a_client_that_leaves_while_its_call_is_recorded_changes_nothing() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Held("first second")]);
    let mut events = stream(&rig, "hello").await;
    events.next().await.unwrap();
    let records = rig.records().await;
    let busy = records.begin().await.unwrap();
    rig.providers.open_gate();
    while events.next().await.unwrap().1["token"] != "second" {}
    // The call has ended, and its record waits for the database.
    drop(events);
    until("the connection is gone", || async { rig.connections().await == 1 }).await;
    drop(busy);
    let used = rig.settled().await;
    assert!((used - 0.000_35).abs() < 1e-9, "by its tokens, not in full: {used}");
    rig.stop().await;
}

#[tokio::test]
async fn what_was_never_sent_is_given_back() {
    let rig = rig(&["openai"], &[]).await;
    let records = rig.records().await;
    let busy = records.begin().await.unwrap();
    let request = rig.http.post(format!("{}/api/v1/providers/burst", rig.base));
    let body = json!({"prompt": "hello", "stream": true});
    let gave_up = request.json(&body).timeout(Duration::from_millis(100)).send().await;
    assert!(gave_up.unwrap_err().is_timeout());
    drop(busy);
    assert!(rig.settled().await < 1e-9);
    assert_eq!(rig.providers.seen("openai").len(), 0);
    assert_eq!(rig.get("/api/v1/budget").await.1["budget"]["calls"], json!({}));
    rig.stop().await;
}

#[tokio::test]
async fn a_database_that_is_away_for_a_moment_loses_no_charge() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Held("first second")]);
    let mut events = stream(&rig, "hello").await;
    events.next().await.unwrap();
    let records = rig.records().await;
    let busy = records.begin().await.unwrap();
    rig.providers.open_gate();
    let done = events.last().await;
    assert_eq!(done["cost"], 0.000_35, "the answer does not wait for the database for long");
    // For longer than a statement waits for a lock.
    tokio::time::sleep(Duration::from_secs(6)).await;
    drop(busy);
    assert!((rig.settled().await - 0.000_35).abs() < 1e-9);
    rig.stop().await;
}

#[tokio::test]
async fn a_stop_waits_until_calls_are_recorded() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Slow(Duration::from_millis(100), "late")]);
    let request = rig.http.post(format!("{}/api/v1/providers/burst", rig.base));
    let asking = tokio::spawn(request.json(&json!({"prompt": "hello"})).send());
    until("the call is made", || async { rig.providers.seen("openai").len() == 1 }).await;
    asking.abort();
    let records = rig.records().await;
    rig.stop().await;
    let row =
        sql("SELECT used_micros, reserved_micros FROM budget_days").first(&records).await.unwrap().unwrap();
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (350, 0));
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
async fn what_only_waits_for_other_calls_may_be_asked_again_soon() {
    let settings = [("DAILY_BUDGET_LIMIT", "0.10"), ("OPENAI_COST_PER_CALL", "0.08")];
    let rig = rig(&["openai"], &settings).await;
    rig.providers.reply("openai", [Reply::Held("first second")]);
    let mut events = stream(&rig, "one").await;
    events.next().await.unwrap();
    let request = rig.http.post(format!("{}/api/v1/providers/burst", rig.base));
    let refused = request.json(&json!({"prompt": "two"})).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (402, &"5".parse().unwrap()));
    let (_, budget) = rig.get("/api/v1/budget").await;
    assert_eq!((&budget["budget"]["percent"], &budget["budget"]["warning"]), (&json!(0.0), &json!(false)));
    rig.providers.open_gate();
    events.last().await;
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
    let costs: f64 = answers.iter().map(|(_, answer)| answer["cost"].as_f64().unwrap()).sum();
    assert!((costs - rig.used().await).abs() < 1e-9, "costs add up to what was charged: {costs}");
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

    /// The data of the last event.
    async fn last(&mut self) -> Value {
        let mut last = Value::Null;
        while let Some((_, data)) = self.next().await {
            last = data;
        }
        last
    }
}

async fn stream(rig: &support::Rig, prompt: &str) -> Events {
    stream_of(rig, json!({"prompt": prompt, "stream": true})).await
}

async fn stream_of(rig: &support::Rig, body: Value) -> Events {
    let answer =
        rig.http.post(format!("{}/api/v1/providers/burst", rig.base)).json(&body).send().await.unwrap();
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

/// A head that was slower than the hedge was cut, charged in full and counted as a failure.
#[tokio::test]
async fn the_first_stream_to_begin_is_passed_on_and_the_slower_one_given_up() {
    let rig = rig(&["deepseek", "openai"], &[("HEDGE_AFTER_MS", "50")]).await;
    rig.providers.reply("deepseek", [Reply::Slow(Duration::from_millis(300), "slow but first")]);
    rig.providers.reply("openai", [Reply::Slow(Duration::from_secs(20), "late")]);
    let mut events = stream(&rig, "one").await;
    let (_, meta) = events.next().await.unwrap();
    assert_eq!((&meta["provider"], &meta["attempts"]), (&json!("deepseek"), &json!([])));
    events.last().await;
    assert_eq!(rig.providers.seen("openai").len(), 1, "it was asked beside it");

    rig.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(20), "late")]);
    rig.providers.reply("openai", [Reply::Text("early")]);
    let mut events = stream(&rig, "two").await;
    assert_eq!(events.next().await.unwrap().1["provider"], "openai");
    events.last().await;
    rig.settled().await;
    let (_, shown) = rig.get("/api/v1/providers/status").await;
    for provider in ["deepseek", "openai"] {
        let breaker = &shown["status"][provider]["circuitBreaker"];
        assert_eq!((&breaker["callCount"], &breaker["failureCount"]), (&json!(1), &json!(0)), "{provider}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_reader_that_no_longer_reads_does_not_keep_its_place() {
    let rig = rig(&["openai"], &[("STREAM_LIMIT_SECONDS", "1")]).await;
    rig.providers.reply("openai", [Reply::Held("never finished")]);
    let mut events = stream(&rig, "hello").await;
    until("its place is free", || async {
        rig.get("/api/v1/system/observability").await.1["callGate"]["running"] == 0
    })
    .await;
    assert!(rig.settled().await > 0.0);
    let error = events.last().await;
    assert!(error["message"].as_str().unwrap().contains("longer than 1 s"), "{error}");
    rig.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_too_busy_says_so_within_its_stream() {
    let rig = rig(&["anthropic"], &[]).await;
    rig.providers.reply(
        "anthropic",
        [Reply::Events(&[
            r#"{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}"#,
        ])],
    );
    let error = stream(&rig, "hello").await.last().await;
    assert_eq!(error["message"], "anthropic: asked to wait");
    let (_, shown) = rig.get("/api/v1/system/observability").await;
    let breaker = &shown["circuitBreakers"]["anthropic"];
    assert_eq!((&breaker["throttled"], &breaker["failureCount"]), (&json!(true), &json!(0)));
    assert!(rig.used().await < 1e-9, "nothing had come");
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
