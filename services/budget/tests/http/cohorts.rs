//! Cohorts and their workflows.

use serde_json::{Value, json};

use crate::harness::{Harness, status_and_json};

#[tokio::test]
async fn a_workflow_is_recorded_once_and_seen_at_once() {
    let harness = Harness::start(&[], &[]).await;
    let workflow = json!({"cohortId": "c-1", "workflowId": "w-1", "provider": "openai", "cost": 1.25, "capabilityGain": 2});
    let (status, first) =
        status_and_json(&harness.service.post("/api/v1/budget/record-workflow", &workflow).await);
    assert_eq!((status, &first["recorded"]), (200, &json!(true)), "{first}");
    let again: Value = harness.service.post_json("/api/v1/budget/record-workflow", &workflow).await;
    assert_eq!(again["recorded"], false);
    let metrics: Value = harness.service.get_json("/api/v1/budget/metrics/c-1").await;
    assert_eq!(
        (&metrics["metrics"]["totalSpent"], &metrics["metrics"]["costPerCapability"]),
        (&json!(1.25), &json!(0.625))
    );
    assert_eq!(metrics["metrics"]["providerCount"], 1);
    for field in ["efficiencyGain", "costPerCapability", "budgetUtilization", "providerDistribution"] {
        assert_eq!(metrics[field], metrics["metrics"][field], "{field}");
    }
    let other = json!({"cohortId": "c-1", "workflowId": "w-1", "provider": "openai", "cost": 9});
    assert_eq!(harness.service.post("/api/v1/budget/record-workflow", &other).await.status, 409);
    let policy: Value = harness.service.get_json("/api/v1/budget/policy/c-1").await;
    assert_eq!(policy["budgetPolicy"]["monthlyBudget"], 10_000.0);
    assert_eq!(policy["suggestedPolicy"]["action"], "increase-allocation");
    assert_eq!(policy["efficiencyGain"], json!(320.0));
    let export: Value = harness.service.get_json("/api/v1/budget/export").await;
    assert_eq!(export["cohortMetrics"]["c-1"]["workflowsExecuted"], 1);
    harness.stop().await;
}

#[tokio::test]
async fn rejects_negative_and_overflowing_money() {
    let harness = Harness::start(&[], &[]).await;
    for cost in [json!(-1), json!(-0.01), json!(1e30), json!("5"), json!(null)] {
        let workflow = json!({"cohortId": "c", "workflowId": "w", "provider": "openai", "cost": cost});
        let (status, response) =
            status_and_json(&harness.service.post("/api/v1/budget/record-workflow", &workflow).await);
        if cost.is_null() {
            assert_eq!(status, 200, "null counts as absent");
        } else {
            assert_eq!(status, 400, "{cost}: {response}");
            assert!(response["error"]["message"].as_str().unwrap().contains("`cost`"), "{response}");
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_workflow_costs_at_most_a_million_dollars() {
    let harness = Harness::start(&[], &[]).await;
    let workflow = |cost| json!({"cohortId": "c", "workflowId": "w", "provider": "openai", "cost": cost});
    let (status, response) =
        status_and_json(&harness.service.post("/api/v1/budget/record-workflow", &workflow(1_000_001)).await);
    assert!(
        status == 400 && response["error"]["message"].as_str().unwrap().contains("from 0 to 1000000"),
        "{response}"
    );
    assert_eq!(
        harness.service.post("/api/v1/budget/record-workflow", &workflow(1_000_000)).await.status,
        200
    );
    harness.stop().await;
}

#[tokio::test]
async fn no_number_is_a_negative_zero() {
    let harness = Harness::start(&[], &[]).await;
    let negative = r#"{"cohortId": "c", "workflowId": "w", "provider": "ollama", "capabilityGain": -0.0}"#;
    let request = harness.post_request("/api/v1/budget/record-workflow");
    let request = request.header("content-type", "application/json").body(negative);
    let recorded = request.send().await;
    let nothing = harness.service.get("/api/v1/budget/metrics/nobody").await;
    for text in [recorded.text(), nothing.text()] {
        assert!(text.contains("\"capabilitiesActivated\":0.0"), "{text}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_cost_must_fit_the_budgets_of_the_cohort() {
    let harness = Harness::start(&[], &[]).await;
    let request = |cost: f64| json!({"cohortId": "c", "estimatedCost": cost});
    let yes: Value = harness.service.post_json("/api/v1/budget/can-afford", &request(300.0)).await;
    assert_eq!((&yes["canAfford"], &yes["budgetRemaining"]), (&json!(true), &json!(10_000.0)));
    let no: Value = harness.service.post_json("/api/v1/budget/can-afford", &request(351.0)).await;
    assert_eq!(no["canAfford"], false, "the daily budget is $350");
    let (status, missing) =
        status_and_json(&harness.service.post("/api/v1/budget/can-afford", &json!({})).await);
    assert!(status == 400 && missing["error"]["message"] == "field `cohortId` is required", "{missing}");
    harness.stop().await;
}
