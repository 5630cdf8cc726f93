//! The endpoints over HTTP: shapes, bad input, the policy and the response cache.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use futures_util::StreamExt;
use phase6_policy::PolicyDocument;
use serde_json::{Value, json};
use support::{Reply, Rig, rig};

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
    let other = json!({"cohortId": "c-1", "workflowId": "w-1", "provider": "openai", "cost": 9});
    assert_eq!(rig.post("/api/v1/budget/record-workflow", other).await.0, 409);
    let (_, policy) = rig.get("/api/v1/budget/policy/c-1").await;
    assert_eq!(policy["budgetPolicy"]["monthlyBudget"], 10_000.0);
    assert_eq!(policy["suggestedPolicy"]["action"], "increase-allocation");
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
    assert_eq!(costs["tokens"]["openai"]["inputPerMillion"], 0.15);
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
        (json_body(b"[]"), 400, "invalid_body", "invalid"),
        (json_body(b"{}"), 400, "invalid_body", "`prompt`"),
        (json_body(b"{\"prompt\":7}"), 400, "invalid_body", "`prompt`"),
        (json_body(b"{\"prompt\":\"x\",\"temperature\":1}"), 400, "invalid_body", "`temperature`"),
        (json_body(b"{\"prompt\":\" \"}"), 400, "invalid_body", "`prompt`"),
        (json_body(b"{\"prompt\":\"x\",\"maxTokens\":0}"), 400, "invalid_body", "`maxTokens`"),
        (json_body(b"{\"prompt\":\"x\",\"maxTokens\":-1}"), 400, "invalid_body", "`maxTokens`"),
        (json_body(b"{\"prompt\":\"x\",\"ttlSeconds\":90000}"), 400, "invalid_body", "`ttlSeconds`"),
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
    let (_, shown) = rig.get("/api/v1/providers/resilience-status").await;
    for part in ["tracer", "circuitBreakers", "cache", "rateLimiter", "database", "policy", "deduplicator"] {
        assert!(shown[part].is_object(), "{part}: {shown}");
    }
    assert_eq!(shown["database"]["kind"], "sqlite");
    rig.stop().await;
}
