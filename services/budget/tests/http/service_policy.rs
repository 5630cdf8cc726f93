//! The policy of the service: response cache, rate limit, and their observability.

use serde_json::{Value, json};

use crate::{fake_providers::Reply, harness::Harness};

#[tokio::test]
async fn cached_responses_are_invalidated_when_their_subject_changes() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Text("yes")]);
    harness.apply_policy(1, json!({"cache": {"ttl": "1h"}}));
    let status = |path: &'static str| {
        let service = &harness.service;
        async move {
            let response = service.get(path).await;
            response.headers["cache-status"].to_str().unwrap().to_owned()
        }
    };
    assert_eq!(status("/api/v1/budget").await, "budget; fwd=uri-miss; stored");
    assert!(status("/api/v1/budget").await.starts_with("budget; hit"));
    harness.burst("hello").await;
    assert!(harness.used().await > 0.0, "spending is seen at once although the response was cached");
    harness.service.get_json::<Value>("/api/v1/budget/metrics/c").await;
    assert!(status("/api/v1/budget/metrics/c").await.starts_with("budget; hit"));
    let workflow = json!({"cohortId": "c", "workflowId": "w", "provider": "openai", "cost": 2});
    harness.service.post_json::<Value>("/api/v1/budget/record-workflow", &workflow).await;
    assert_eq!(
        harness.service.get_json::<Value>("/api/v1/budget/metrics/c").await["metrics"]["totalSpent"],
        2.0
    );
    harness.stop().await;
}

/// Other replicas, providers and the clock change these responses without an invalidation here.
#[tokio::test]
async fn responses_that_others_change_are_cached_for_five_seconds() {
    let harness = Harness::start(&[], &[]).await;
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
        let response = harness.service.get(path).await;
        let control = response.headers["cache-control"].to_str().unwrap();
        let seconds: u64 = control.strip_prefix("public, max-age=").expect(path).parse().unwrap();
        assert!(seconds <= 5, "{path}: {control}");
    }
    harness.stop().await;
}

/// Regression: only a settlement invalidated the budget, so a cached response missed the reservation.
#[tokio::test]
async fn a_reservation_is_seen_at_once() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Held("first second")]);
    harness.apply_policy(1, json!({"cache": {"ttl": "1h"}}));
    assert_eq!(harness.budget().await["reserved"], 0.0);
    let request = harness.post_request("/api/v1/providers/burst");
    let streamed = request.json(&json!({"prompt": "hello", "stream": true})).open().await;
    let budget = harness.budget().await;
    assert!(budget["reserved"].as_f64().unwrap() > 0.0, "{budget}");
    harness.providers.release_held();
    streamed.read().await;
    harness.stop().await;
}

#[tokio::test]
async fn a_policy_change_takes_effect_at_once_and_names_its_revision() {
    let harness = Harness::start(&[], &[]).await;
    harness.apply_policy(7, json!({"rateLimit": {"capacity": 2, "refillPerSecond": 0.001}}));
    let get = || harness.service.get("/api/v1/budget");
    let first = get().await;
    assert_eq!((first.status.as_u16(), first.headers["phase6-policy"].to_str().unwrap()), (200, "7"));
    assert_eq!(get().await.status, 200);
    let refused = get().await;
    assert_eq!(refused.status, 429);
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    let body: Value = refused.json();
    assert_eq!(body["error"]["code"], "rate_limited");
    harness.apply_policy(8, json!({"rateLimit": {"capacity": 3, "refillPerSecond": 0.001}}));
    assert_eq!(get().await.status, 200, "one more request, because the change keeps the bucket");
    assert_eq!(get().await.status, 429);
    assert_eq!(harness.service.get("/readyz").await.status, 200, "health checks are never limited");
    harness.stop().await;
}

/// Regression: rates of the original system were texts with a percent sign, which scripts could not read.
#[tokio::test]
async fn observability_shows_rates_as_numbers_from_0_to_1() {
    let harness = Harness::start(&[], &[]).await;
    let policy = |mode| json!({"cache": {"ttl": "1h"}, "rateLimit": {"capacity": 3, "refillPerSecond": 0.001, "mode": mode}});
    harness.apply_policy(1, policy("Enforce"));
    for status in [200, 200, 200, 429] {
        assert_eq!(harness.service.get("/api/v1/budget").await.status, status);
    }
    // Without a limit, the request for the observability itself is not counted.
    harness.apply_policy(2, policy("Off"));
    let observed: Value = harness.service.get_json("/api/v1/system/observability").await;
    assert_eq!(
        (&observed["rateLimiter"]["totalRequests"], &observed["rateLimiter"]["allowRate"]),
        (&json!(4), &json!(0.75))
    );
    let hit_rate = observed["cache"]["hitRate"].as_f64().expect("a number");
    assert!(hit_rate > 0.0 && hit_rate <= 1.0, "{observed}");
    let utilization = observed["database"]["utilization"].as_f64().expect("a number");
    assert!((0.0..=1.0).contains(&utilization), "{observed}");
    harness.stop().await;
}
