//! Ranking of workflows.

use serde_json::{Value, json};

use crate::harness::{Harness, status_and_json};

#[tokio::test]
async fn ranks_workflows_by_weighted_roi() {
    let harness = Harness::start(&[], &[]).await;
    let workflows = json!({"workflows": [
        {"name": "dear", "provider": "openai", "expectedGain": 0.5, "cost": 0.02},
        {"name": "free", "provider": "ollama", "expectedGain": 0.5},
        {"name": "cheap", "provider": "claude", "expectedGain": 0.5, "cost": 0.008},
    ]});
    let ranking: Value = harness.service.post_json("/api/v1/budget/rank-by-roi", &workflows).await;
    let names: Vec<_> =
        ranking["ranked"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["free", "cheap", "dear"]);
    assert_eq!(
        (&ranking["ranked"][0]["costTier"], &ranking["ranked"][1]["provider"]),
        (&json!("free"), &json!("anthropic"))
    );
    assert!(ranking["ranked"][0]["weightedROI"].as_f64().unwrap() < 1e6);
    let bad = json!({"workflows": [{"expectedGain": -1}]});
    let (status, response) = status_and_json(&harness.service.post("/api/v1/budget/rank-by-roi", &bad).await);
    assert!(
        status == 400 && response["error"]["message"].as_str().unwrap().contains("workflows[0].expectedGain")
    );
    harness.stop().await;
}

/// Regression: a response had fields twice that a workflow and its score have in common.
#[tokio::test]
async fn a_response_has_each_field_of_a_score_once() {
    let harness = Harness::start(&[], &[]).await;
    let workflow = json!({"name": "w", "roi": 1e9, "costTier": "free", "weightedROI": 1, "efficiencyCoeff": 2, "cost": 1});
    let body = json!({"workflows": [workflow]});
    let response = harness.service.post("/api/v1/budget/rank-by-roi", &body).await;
    let response = response.text();
    let ranked = response.split("\"affordable\"").next().unwrap();
    for name in ["roi", "costTier", "weightedROI", "efficiencyCoeff", "cost"] {
        assert_eq!(ranked.matches(&format!("\"{name}\":")).count(), 1, "{name}: {response}");
    }
    assert!(ranked.contains("\"costTier\":\"premium\""), "{ranked}");
    harness.stop().await;
}
