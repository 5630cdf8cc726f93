//! Spending of the day and its history.

use serde_json::{Value, json};

use crate::harness::{Harness, status_and_json};

#[tokio::test]
async fn the_budget_has_its_documented_shape() {
    let harness = Harness::start(&[], &[]).await;
    let (status, body) = status_and_json(&harness.service.get("/api/v1/budget").await);
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
    assert_eq!(harness.service.get_json::<Value>("/api/v1/budget/history").await["history"], json!([]));
    harness.stop().await;
}
