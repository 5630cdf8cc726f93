//! The endpoints over HTTP: shapes, bad input, the policy and the response cache.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use phase6_policy::PolicyDocument;
use serde_json::{Value, json};
use support::{Reply, Rig, rig, until};

#[tokio::test]
async fn today_s_budget_has_its_documented_shape() {
    let rig = rig(&[], &[]).await;
    let (status, body) = rig.get("/api/v1/budget").await;
    assert_eq!(status, 200);
    assert_eq!(body["ok"], true);
    let budget = &body["budget"];
    assert_eq!(budget["date"].as_str().unwrap().len(), 10);
    assert_eq!(
        (&budget["limit"], &budget["used"], &budget["remaining"]),
        (&json!(5.0), &json!(0.0), &json!(5.0))
    );
    assert_eq!(
        (&budget["warning"], &budget["blocked"], &budget["calls"]),
        (&json!(false), &json!(false), &json!({}))
    );
    assert_eq!(rig.get("/api/v1/budget/history").await.1["history"], json!([]));
    rig.stop().await;
}

#[tokio::test]
async fn the_provider_policy_is_changed_for_good_and_bad_values_are_refused() {
    let rig = rig(&[], &[]).await;
    let (_, before) = rig.get("/api/v1/providers/policy").await;
    assert_eq!(before["policy"], json!({"maxConcurrency": 4, "minConcurrency": 1, "criticality": "normal"}));
    let (status, after) =
        rig.post("/api/v1/providers/policy", json!({"maxConcurrency": 7, "criticality": "high"})).await;
    assert_eq!((status, &after["policy"]["maxConcurrency"]), (200, &json!(7)));
    assert_eq!(rig.get("/api/v1/providers/policy").await.1["policy"]["criticality"], "high");
    for (body, told) in [
        (json!({"maxConcurrency": 0}), "accepted: a whole number from 1 to 12"),
        (json!({"maxConcurrency": 13}), "accepted: a whole number from 1 to 12"),
        (json!({"maxConcurrency": "many"}), "field `maxConcurrency`"),
        (json!({"criticality": "chat"}), "expected one of `low`, `normal`, `high`, `critical`"),
        (json!({"concurrency": 3}), "unknown field `concurrency`"),
    ] {
        let (status, answer) = rig.post("/api/v1/providers/policy", body.clone()).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(told), "{body}: {answer}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_workflow_is_booked_once_and_seen_at_once() {
    let rig = rig(&[], &[]).await;
    let workflow = json!({"cohortId": "c-1", "workflowId": "w-1", "provider": "openai", "cost": 1.25, "capabilityGain": 2});
    let (status, first) = rig.post("/api/v1/budget/record-workflow", workflow.clone()).await;
    assert_eq!((status, &first["recorded"]), (200, &json!(true)), "{first}");
    let (_, again) = rig.post("/api/v1/budget/record-workflow", workflow).await;
    assert_eq!(again["recorded"], false);
    let (_, metrics) = rig.get("/api/v1/budget/metrics/c-1").await;
    assert_eq!(
        (&metrics["metrics"]["totalSpent"], &metrics["metrics"]["costPerCapability"]),
        (&json!(1.25), &json!(0.625))
    );
    assert_eq!(metrics["metrics"]["providerCount"], 1);
    for again in ["efficiencyGain", "costPerCapability", "budgetUtilization", "providerDistribution"] {
        assert_eq!(metrics[again], metrics["metrics"][again], "{again}");
    }
    let other = json!({"cohortId": "c-1", "workflowId": "w-1", "provider": "openai", "cost": 9});
    assert_eq!(rig.post("/api/v1/budget/record-workflow", other).await.0, 409);
    let (_, policy) = rig.get("/api/v1/budget/policy/c-1").await;
    assert_eq!(policy["budgetPolicy"]["monthlyBudget"], 10_000.0);
    assert_eq!(policy["suggestedPolicy"]["action"], "increase-allocation");
    assert_eq!(policy["efficiencyGain"], json!(320.0));
    let (_, export) = rig.get("/api/v1/budget/export").await;
    assert_eq!(export["cohortMetrics"]["c-1"]["workflowsExecuted"], 1);
    rig.stop().await;
}

#[tokio::test]
async fn negative_or_overflowing_money_is_refused() {
    let rig = rig(&[], &[]).await;
    for cost in [json!(-1), json!(-0.01), json!(1e30), json!("5"), json!(null).clone()] {
        let workflow = json!({"cohortId": "c", "workflowId": "w", "provider": "openai", "cost": cost});
        let (status, answer) = rig.post("/api/v1/budget/record-workflow", workflow).await;
        if cost.is_null() {
            assert_eq!(status, 200, "null is the same as leaving it out");
        } else {
            assert_eq!(status, 400, "{cost}: {answer}");
            assert!(answer["error"]["message"].as_str().unwrap().contains("`cost`"), "{answer}");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_workflow_costs_at_most_a_million() {
    let rig = rig(&[], &[]).await;
    let workflow = |cost| json!({"cohortId": "c", "workflowId": "w", "provider": "openai", "cost": cost});
    let (status, answer) = rig.post("/api/v1/budget/record-workflow", workflow(1_000_001)).await;
    assert!(
        status == 400 && answer["error"]["message"].as_str().unwrap().contains("from 0 to 1000000"),
        "{answer}"
    );
    assert_eq!(rig.post("/api/v1/budget/record-workflow", workflow(1_000_000)).await.0, 200);
    rig.stop().await;
}

#[tokio::test]
async fn no_figure_is_a_negative_zero() {
    let rig = rig(&[], &[]).await;
    let negative = r#"{"cohortId": "c", "workflowId": "w", "provider": "ollama", "capabilityGain": -0.0}"#;
    let request = rig.http.post(format!("{}/api/v1/budget/record-workflow", rig.base));
    let request = request.header("content-type", "application/json").body(negative);
    let recorded = request.send().await.unwrap().text().await.unwrap();
    let nothing = rig.http.get(format!("{}/api/v1/budget/metrics/nobody", rig.base)).send().await.unwrap();
    for text in [recorded, nothing.text().await.unwrap()] {
        assert!(text.contains("\"capabilitiesActivated\":0.0"), "{text}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_a_cohort_can_afford() {
    let rig = rig(&[], &[]).await;
    let ask = |cost: f64| json!({"cohortId": "c", "estimatedCost": cost});
    let (_, yes) = rig.post("/api/v1/budget/can-afford", ask(300.0)).await;
    assert_eq!((&yes["canAfford"], &yes["budgetRemaining"]), (&json!(true), &json!(10_000.0)));
    let (_, no) = rig.post("/api/v1/budget/can-afford", ask(351.0)).await;
    assert_eq!(no["canAfford"], false, "the day's budget is 350");
    let (status, missing) = rig.post("/api/v1/budget/can-afford", json!({})).await;
    assert!(status == 400 && missing["error"]["message"] == "missing field `cohortId`", "{missing}");
    rig.stop().await;
}

#[tokio::test]
async fn workflows_are_ranked_by_what_they_bring() {
    let rig = rig(&[], &[]).await;
    let (_, ranking) = rig
        .post(
            "/api/v1/budget/rank-by-roi",
            json!({"workflows": [
                {"name": "dear", "provider": "openai", "expectedGain": 0.5, "cost": 0.02},
                {"name": "free", "provider": "ollama", "expectedGain": 0.5},
                {"name": "cheap", "provider": "claude", "expectedGain": 0.5, "cost": 0.008},
            ]}),
        )
        .await;
    let names: Vec<_> =
        ranking["ranked"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["free", "cheap", "dear"]);
    assert_eq!(
        (&ranking["ranked"][0]["costTier"], &ranking["ranked"][1]["provider"]),
        (&json!("free"), &json!("anthropic"))
    );
    assert!(ranking["ranked"][0]["weightedROI"].as_f64().unwrap() < 1e6);
    let bad = json!({"workflows": [{"expectedGain": -1}]});
    let (status, answer) = rig.post("/api/v1/budget/rank-by-roi", bad).await;
    assert!(
        status == 400 && answer["error"]["message"].as_str().unwrap().contains("workflows[0].expectedGain")
    );
    rig.stop().await;
}

/// Names that a workflow and its rank have in common stood in the answer twice.
#[tokio::test]
async fn a_rank_stands_in_an_answer_once() {
    let rig = rig(&[], &[]).await;
    let workflow = json!({"name": "w", "roi": 1e9, "costTier": "free", "weightedROI": 1, "efficiencyCoeff": 2, "cost": 1});
    let request = rig.http.post(format!("{}/api/v1/budget/rank-by-roi", rig.base));
    let answer = request.json(&json!({"workflows": [workflow]})).send().await.unwrap().text().await.unwrap();
    let ranked = answer.split("\"affordable\"").next().unwrap();
    for name in ["roi", "costTier", "weightedROI", "efficiencyCoeff", "cost"] {
        assert_eq!(ranked.matches(&format!("\"{name}\":")).count(), 1, "{name}: {answer}");
    }
    assert!(ranked.contains("\"costTier\":\"premium\""), "{ranked}");
    rig.stop().await;
}

#[tokio::test]
async fn the_cheapest_or_the_fitting_provider_is_recommended() {
    let rig = rig(&["openai", "deepseek", "anthropic"], &[]).await;
    let (_, cheapest) = rig.get("/api/v1/providers/recommend").await;
    assert_eq!((&cheapest["recommended"], &cheapest["cost"]), (&json!("deepseek"), &json!(0.002)));
    let (_, best) = rig.get("/api/v1/providers/recommend?prompt=compare+these&criticality=critical").await;
    assert_eq!(best["recommended"], "anthropic");
    assert_eq!(rig.get("/api/v1/providers/recommend?colour=red").await.0, 400);
    let (_, costs) = rig.get("/api/v1/providers/costs").await;
    assert_eq!(costs["prices"]["openai"], 0.01);
    assert_eq!(costs["tokens"]["openai"]["inputPerMillion"], 0.1);
    rig.stop().await;
}

#[tokio::test]
async fn outcomes_can_be_learned_from() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Text("yes")]);
    for i in 0..10 {
        rig.burst(&format!("write a poem about {i}")).await;
    }
    let (_, stats) = rig.get("/api/v1/system/learning-stats").await;
    assert_eq!(stats["providerQuality"][0]["task"], "creative");
    assert_eq!(stats["providerQuality"][0]["successRate"], 1.0);
    assert_eq!(stats["topPerformer"], json!({"provider": "openai", "task": "creative"}));
    rig.stop().await;
}

#[tokio::test]
async fn realtime_events_come_and_end_with_the_service() {
    let rig = rig(&[], &[]).await;
    let answer = rig.http.get(format!("{}/api/v1/providers/realtime", rig.base)).send().await.unwrap();
    let mut pieces = answer.bytes_stream();
    let first = pieces.next().await.unwrap().unwrap();
    let text = std::str::from_utf8(&first).unwrap();
    assert!(text.starts_with("event: summary\ndata: {"), "{text}");
    let data: Value =
        serde_json::from_str(text.lines().nth(1).unwrap().trim_start_matches("data: ")).unwrap();
    assert_eq!(data["budget"]["limit"], 5.0);
    assert_eq!(rig.get("/api/v1/providers/performance-stream").await.1["policy"]["maxConcurrency"], 4);
    rig.stop().await;
    while let Some(piece) = pieces.next().await {
        piece.unwrap();
    }
}

fn apply(rig: &Rig, revision: u64, policy: Value) {
    let document: PolicyDocument = serde_json::from_value(json!({
        "ownerUid": "t", "revision": revision, "generation": 1, "hash": "", "publishedAt": "", "policy": policy,
    }))
    .unwrap();
    rig.enforcer.apply(document);
}

#[tokio::test]
async fn answers_are_cached_by_policy_and_forgotten_when_they_change() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Text("yes")]);
    apply(&rig, 1, json!({"cache": {"ttl": "1h"}}));
    let status = |path: &'static str| {
        let request = rig.http.get(format!("{}{path}", rig.base));
        async move {
            let answer = request.send().await.unwrap();
            answer.headers()["cache-status"].to_str().unwrap().to_owned()
        }
    };
    assert_eq!(status("/api/v1/budget").await, "budget; fwd=uri-miss; stored");
    assert!(status("/api/v1/budget").await.starts_with("budget; hit"));
    rig.burst("hello").await;
    assert!(rig.used().await > 0.0, "spending is seen at once although its answer was cached");
    rig.get("/api/v1/budget/metrics/c").await;
    assert!(status("/api/v1/budget/metrics/c").await.starts_with("budget; hit"));
    let workflow = json!({"cohortId": "c", "workflowId": "w", "provider": "openai", "cost": 2});
    rig.post("/api/v1/budget/record-workflow", workflow).await;
    assert_eq!(rig.get("/api/v1/budget/metrics/c").await.1["metrics"]["totalSpent"], 2.0);
    rig.stop().await;
}

/// Other replicas, providers and the clock change them, and nobody here takes them back.
#[tokio::test]
async fn answers_that_change_by_themselves_are_kept_for_seconds() {
    let rig = rig(&[], &[]).await;
    for path in [
        "/api/v1/budget",
        "/api/v1/budget/history",
        "/api/v1/budget/export",
        "/api/v1/budget/metrics/c",
        "/api/v1/budget/policy/c",
        "/api/v1/providers/status",
        "/api/v1/providers/policy",
        "/api/v1/system/learning-stats",
    ] {
        let answer = rig.http.get(format!("{}{path}", rig.base)).send().await.unwrap();
        let control = answer.headers()["cache-control"].to_str().unwrap();
        let seconds: u64 = control.strip_prefix("public, max-age=").expect(path).parse().unwrap();
        assert!(seconds <= 5, "{path}: {control}");
    }
    rig.stop().await;
}

/// Only its end was told: a cached answer said that nothing was set aside.
#[tokio::test]
async fn what_is_set_aside_is_seen_at_once() {
    let rig = rig(&["openai"], &[]).await;
    rig.providers.reply("openai", [Reply::Held("first second")]);
    apply(&rig, 1, json!({"cache": {"ttl": "1h"}}));
    assert_eq!(rig.get("/api/v1/budget").await.1["budget"]["reserved"], 0.0);
    let request = rig.http.post(format!("{}/api/v1/providers/burst", rig.base));
    let streamed = request.json(&json!({"prompt": "hello", "stream": true})).send().await.unwrap();
    let (_, budget) = rig.get("/api/v1/budget").await;
    assert!(budget["budget"]["reserved"].as_f64().unwrap() > 0.0, "{budget}");
    rig.providers.open_gate();
    streamed.bytes().await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_retune_acts_at_once_and_says_which_revision_judged() {
    let rig = rig(&[], &[]).await;
    apply(&rig, 7, json!({"rateLimit": {"capacity": 2, "refillPerSecond": 0.001}}));
    let get = || async { rig.http.get(format!("{}/api/v1/budget", rig.base)).send().await.unwrap() };
    let first = get().await;
    assert_eq!((first.status().as_u16(), first.headers()["phase6-policy"].to_str().unwrap()), (200, "7"));
    assert_eq!(get().await.status(), 200);
    let refused = get().await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["code"], "rate_limited");
    apply(&rig, 8, json!({"rateLimit": {"capacity": 3, "refillPerSecond": 0.001}}));
    assert_eq!(get().await.status(), 200, "one more, the state was kept");
    assert_eq!(get().await.status(), 429);
    assert_eq!(rig.get("/readyz").await.0, 200, "its own health is never limited");
    rig.stop().await;
}

/// In the original, rates were texts with a percent sign, and scripts that read them saw no number.
#[tokio::test]
async fn observability_shows_rates_as_numbers_from_0_to_1() {
    let rig = rig(&[], &[]).await;
    let terms = |mode| json!({"cache": {"ttl": "1h"}, "rateLimit": {"capacity": 3, "refillPerSecond": 0.001, "mode": mode}});
    apply(&rig, 1, terms("Enforce"));
    for status in [200, 200, 200, 429] {
        assert_eq!(rig.get("/api/v1/budget").await.0, status);
    }
    // Where no limit is held against it, the question itself does not count.
    apply(&rig, 2, terms("Off"));
    let (_, shown) = rig.get("/api/v1/system/observability").await;
    assert_eq!(
        (&shown["rateLimiter"]["totalRequests"], &shown["rateLimiter"]["allowRate"]),
        (&json!(4), &json!(0.75))
    );
    let hit_rate = shown["cache"]["hitRate"].as_f64().expect("a number");
    assert!(hit_rate > 0.0 && hit_rate <= 1.0, "{shown}");
    let utilization = shown["database"]["utilization"].as_f64().expect("a number");
    assert!((0.0..=1.0).contains(&utilization), "{shown}");
    rig.stop().await;
}

/// In the original each call left timers behind, and work that had timed out went on.
#[tokio::test]
async fn calls_that_have_ended_leave_no_task_behind() {
    let settings = [("HEDGE_AFTER_MS", "1"), ("DAILY_BUDGET_LIMIT", "1000")];
    let rig = rig(&["deepseek", "openai"], &settings).await;
    // Never answers in time: another one is asked, and it is given up.
    rig.providers.reply("deepseek", [Reply::Slow(Duration::from_mins(5), "late")]);
    rig.providers.reply("openai", [Reply::Text("yes")]);
    let settled = || async { rig.get("/api/v1/budget").await.1["budget"]["reserved"] == 0.0 };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // With the connections that stay open.
    rig.burst("the first").await;
    until("it is settled", settled).await;
    let before = at_rest(tasks).await;
    for i in 0..200 {
        let question = json!({"prompt": format!("question {i}")});
        let call = rig.http.post(format!("{}/api/v1/providers/burst", rig.base)).json(&question);
        if i % 20 == 0 {
            rig.providers
                .reply("openai", [Reply::Slow(Duration::from_millis(100), "late"), Reply::Text("yes")]);
            let gave_up = call.timeout(Duration::from_millis(5)).send().await.unwrap_err();
            assert!(gave_up.is_timeout(), "{gave_up}");
            until("it is settled", settled).await;
        } else {
            assert_eq!(call.send().await.unwrap().status(), 200);
        }
    }
    until("no task is left", || async { tasks() <= before }).await;
    assert!(rig.providers.seen("deepseek").len() > 150, "each but a few timed out with one provider");
    rig.stop().await;
}

/// A number that has not changed for a while.
async fn at_rest(number: impl Fn() -> usize) -> usize {
    let (mut last, mut same) = (number(), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        same = if number() == last { same + 1 } else { 0 };
        last = number();
    }
    last
}

#[tokio::test]
async fn bad_input_is_a_4xx_in_the_one_envelope_that_names_the_field() {
    let rig = rig(&[], &[]).await;
    let url = |path: &str| format!("{}{path}", rig.base);
    let burst = url("/api/v1/providers/burst");
    let json_body =
        |body: &'static [u8]| rig.http.post(&burst).header("content-type", "application/json").body(body);
    let long: &'static str = Box::leak("x".repeat(200_001).into_boxed_str());
    let cases: Vec<(reqwest::RequestBuilder, u16, &str, &str)> = vec![
        (json_body(b"{"), 400, "invalid_json", "not valid JSON"),
        (json_body(b"{\"prompt\":\"\xff\"}"), 400, "invalid_json", "not valid JSON"),
        (json_body(b"[]"), 400, "invalid_body", "a JSON object"),
        (json_body(b"{}"), 400, "invalid_body", "`prompt`"),
        (json_body(b"{\"prompt\":7}"), 400, "invalid_body", "`prompt`"),
        (json_body(b"{\"prompt\":\"x\",\"temperature\":1}"), 400, "invalid_body", "`temperature`"),
        (json_body(b"{\"prompt\":\" \"}"), 400, "invalid_body", "`prompt`"),
        (json_body(b"{\"prompt\":\"x\",\"maxTokens\":0}"), 400, "invalid_body", "`maxTokens`"),
        (json_body(b"{\"prompt\":\"x\",\"maxTokens\":-1}"), 400, "invalid_body", "`maxTokens`"),
        (json_body(b"{\"prompt\":\"x\",\"ttlSeconds\":90000}"), 400, "invalid_body", "`ttlSeconds`"),
        (
            json_body(b"{\"prompt\":\"x\",\"ttlSeconds\":60,\"stream\":true}"),
            400,
            "invalid_body",
            "together with `stream`",
        ),
        (json_body(b"{\"prompt\":\"x\",\"provider\":\"skynet\"}"), 400, "invalid_body", "`provider`"),
        (rig.http.post(&burst).json(&json!({"prompt": long})), 400, "invalid_body", "`prompt`"),
        (rig.http.post(&burst).body("prompt=x"), 415, "unsupported_media_type", "application/json"),
        (
            rig.http
                .post(&burst)
                .header("content-type", "application/json")
                .body(vec![b' '; 3 * 1024 * 1024]),
            413,
            "body_too_large",
            "2097152",
        ),
        (rig.http.put(&burst), 405, "method_not_allowed", "PUT"),
        (rig.http.get(url("/api/v1/nothing")), 404, "not_found", "/api/v1/nothing"),
        (rig.http.get(url("/api/v1/budget/metrics/%00")), 400, "invalid_body", "`cohortId`"),
        (rig.http.get(url("/api/v1/budget/metrics/%FF")), 400, "invalid_path", ""),
        (rig.http.get(url(&format!("/api/v1/budget?{}", "q".repeat(9_000)))), 414, "uri_too_long", "8192"),
        (
            rig.http.get(url("/api/v1/budget")).header("x-long", "y".repeat(40_000)),
            431,
            "headers_too_large",
            "32768",
        ),
    ];
    for (number, (request, status, code, told)) in cases.into_iter().enumerate() {
        let answer = request.send().await.unwrap();
        let got = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_else(|error| panic!("case {number}: {error}"));
        assert_eq!((got, body["error"]["code"].as_str()), (status, Some(code)), "case {number}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(told), "case {number}: {body}");
        assert_eq!(body["ok"], false);
        assert_eq!(body["traceId"].as_str().map(str::len), Some(32), "case {number}: {body}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn the_description_lists_every_endpoint() {
    let rig = rig(&[], &[]).await;
    let (_, description) = rig.get("/openapi.json").await;
    let paths: Vec<_> = description["paths"].as_object().unwrap().keys().collect();
    for path in [
        "/api/v1/budget",
        "/api/v1/budget/history",
        "/api/v1/providers/status",
        "/api/v1/providers/policy",
        "/api/v1/providers/burst",
        "/api/v1/providers/costs",
        "/api/v1/providers/recommend",
        "/api/v1/providers/resilience-status",
        "/api/v1/budget/policy/{cohortId}",
        "/api/v1/budget/can-afford",
        "/api/v1/budget/record-workflow",
        "/api/v1/budget/metrics/{cohortId}",
        "/api/v1/budget/rank-by-roi",
        "/api/v1/budget/export",
        "/api/v1/providers/realtime",
        "/api/v1/providers/performance-stream",
        "/api/v1/system/learning-stats",
        "/api/v1/system/observability",
        "/api/v1/status",
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
        "/policyz",
        "/openapi.json",
    ] {
        assert!(paths.iter().any(|have| *have == path), "{path} is missing");
    }
    let mut ids = std::collections::BTreeSet::new();
    for operation in
        description["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values())
    {
        assert!(ids.insert(operation["operationId"].as_str()), "{} is used twice", operation["operationId"]);
        for (status, answer) in operation["responses"].as_object().unwrap() {
            assert!(
                answer["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{operation}: {status}"
            );
        }
    }
    let schemas = &description["components"]["schemas"];
    assert!(
        schemas["PolicyResponse"]["allOf"].is_array(),
        "the one of /policyz: {}",
        schemas["PolicyResponse"]
    );
    assert!(schemas["ProviderPolicyAnswer"]["properties"]["policy"].is_object());
    let burst = &description["paths"]["/api/v1/providers/burst"]["post"]["responses"]["200"]["content"];
    assert!(burst["text/event-stream"].is_object() && burst["application/json"].is_object(), "{burst}");
    let (_, shown) = rig.get("/api/v1/providers/resilience-status").await;
    for part in ["tracer", "circuitBreakers", "cache", "rateLimiter", "database", "policy", "deduplicator"] {
        assert!(shown[part].is_object(), "{part}: {shown}");
    }
    assert_eq!(shown["database"]["kind"], "sqlite");
    rig.stop().await;
}
