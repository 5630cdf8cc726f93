//! The OpenAPI description.

use serde_json::Value;

use crate::harness::Harness;

#[tokio::test]
async fn the_description_lists_every_endpoint() {
    let harness = Harness::start(&[], &[]).await;
    let description: Value = harness.service.get_json("/openapi.json").await;
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
        assert!(paths.iter().any(|listed| *listed == path), "{path} is missing");
    }
    let mut ids = std::collections::BTreeSet::new();
    for operation in
        description["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values())
    {
        assert!(ids.insert(operation["operationId"].as_str()), "{} is used twice", operation["operationId"]);
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(
                response["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{operation}: {status}"
            );
        }
    }
    let schemas = &description["components"]["schemas"];
    assert!(
        schemas["PolicyResponse"]["allOf"].is_array(),
        "schema of /policyz: {}",
        schemas["PolicyResponse"]
    );
    assert!(schemas["ProviderPolicyResponse"]["properties"]["policy"].is_object());
    let burst = &description["paths"]["/api/v1/providers/burst"]["post"]["responses"]["200"]["content"];
    assert!(burst["text/event-stream"].is_object() && burst["application/json"].is_object(), "{burst}");
    let observed: Value = harness.service.get_json("/api/v1/providers/resilience-status").await;
    for part in ["tracer", "circuitBreakers", "cache", "rateLimiter", "database", "policy", "deduplicator"] {
        assert!(observed[part].is_object(), "{part}: {observed}");
    }
    assert_eq!(observed["database"]["kind"], "sqlite");
    harness.stop().await;
}
