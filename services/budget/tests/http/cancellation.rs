//! Disconnecting callers and temporary database outages.

use std::time::Duration;

use phase6_store::{Row, sql};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    event_stream::EventStream,
    fake_providers::Reply,
    harness::{Harness, wait_until},
};

/// Regression: the settlement ran in the future of the caller, who could disconnect between the end of a
/// call and its settlement and leave the amount reserved for ten minutes.
#[tokio::test]
async fn a_client_that_disconnects_during_the_settlement_changes_nothing() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Held("first second")]);
    let mut events = EventStream::open_prompt(&harness, "hello").await;
    events.next().await.unwrap();
    let database = harness.database().await;
    let lock = database.begin().await.unwrap();
    harness.providers.release_held();
    while events.next().await.unwrap().1["token"] != "second" {}
    // The call has ended, and its settlement waits for the database.
    drop(events);
    wait_until("the connection is gone", || async { harness.open_connections().await == 1 }).await;
    drop(lock);
    let used = harness.used_after_settlement().await;
    assert!((used - 0.000_35).abs() < 1e-9, "charged by its tokens, not in full: {used}");
    harness.stop().await;
}

#[tokio::test]
async fn the_reservation_of_a_call_that_was_not_sent_is_released() {
    let harness = Harness::start(&["openai"], &[]).await;
    let database = harness.database().await;
    let lock = database.begin().await.unwrap();
    let request = harness.post_request("/api/v1/providers/burst");
    let body = json!({"prompt": "hello", "stream": true});
    let result = timeout(Duration::from_millis(100), request.json(&body).send()).await;
    assert!(result.is_err(), "{result:?}");
    drop(lock);
    assert!(harness.used_after_settlement().await < 1e-9);
    assert_eq!(harness.providers.requests("openai").len(), 0);
    assert_eq!(harness.budget().await["calls"], json!({}));
    harness.stop().await;
}

#[tokio::test]
async fn a_database_outage_loses_no_charge() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Held("first second")]);
    let mut events = EventStream::open_prompt(&harness, "hello").await;
    events.next().await.unwrap();
    let database = harness.database().await;
    let lock = database.begin().await.unwrap();
    harness.providers.release_held();
    let done = events.last().await;
    assert_eq!(done["cost"], 0.000_35, "the answer waits for the database for a short time only");
    // Longer than a statement waits for a lock.
    tokio::time::sleep(Duration::from_secs(6)).await;
    drop(lock);
    assert!((harness.used_after_settlement().await - 0.000_35).abs() < 1e-9);
    harness.stop().await;
}

#[tokio::test]
async fn a_stop_waits_until_calls_are_settled() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Slow(Duration::from_millis(100), "late")]);
    let request = harness.post_request("/api/v1/providers/burst");
    let caller = tokio::spawn(request.json(&json!({"prompt": "hello"})).send());
    wait_until("the call is sent", || async { harness.providers.requests("openai").len() == 1 }).await;
    caller.abort();
    let database = harness.database().await;
    harness.stop().await;
    let row =
        sql("SELECT used_micros, reserved_micros FROM budget_days").first(&database).await.unwrap().unwrap();
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (350, 0));
}

#[tokio::test]
async fn a_deadline_of_one_caller_does_not_cancel_the_call_for_others() {
    let harness = Harness::start(&["deepseek"], &[]).await;
    harness.providers.reply("deepseek", [Reply::Slow(Duration::from_secs(1), "in time")]);
    let (status, response) = harness.burst_within(300, json!({"prompt": "hello"})).await;
    assert_eq!((status, response["error"]["code"].as_str()), (504, Some("deadline_exceeded")), "{response}");
    let (status, response) = harness.burst("hello").await;
    assert_eq!((status, response["text"].as_str()), (200, Some("in time")), "{response}");
    assert_eq!(harness.providers.requests("deepseek").len(), 1);
    harness.stop().await;
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_nothing_reserved() {
    let harness = Harness::start(&["openai"], &[]).await;
    harness.providers.reply("openai", [Reply::Held("never finished")]);
    let mut events = EventStream::open_prompt(&harness, "hello").await;
    events.next().await.unwrap();
    drop(events);
    wait_until("the call is settled", || async {
        let budget = harness.budget().await;
        budget["reserved"] == 0.0 && budget["used"].as_f64().unwrap() > 0.0
    })
    .await;
    harness.providers.release_held();
    harness.stop().await;
}

/// Regression: in the original system each call left timers behind, and work that had timed out continued.
#[tokio::test]
async fn ended_calls_leave_no_task_behind() {
    let settings = [("HEDGE_AFTER_MS", "1"), ("DAILY_BUDGET_LIMIT", "1000")];
    let harness = Harness::start(&["deepseek", "openai"], &settings).await;
    // Never answers in time, so the next provider is called and this call is cancelled.
    harness.providers.reply("deepseek", [Reply::Slow(Duration::from_mins(5), "late")]);
    harness.providers.reply("openai", [Reply::Text("yes")]);
    let settled = || async { harness.budget().await["reserved"] == 0.0 };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // Opens the connections that stay open.
    harness.burst("first prompt").await;
    wait_until("the call is settled", settled).await;
    let before = when_stable(tasks).await;
    for i in 0..200 {
        let prompt = json!({"prompt": format!("prompt {i}")});
        let call = harness.post_request("/api/v1/providers/burst").json(&prompt);
        if i % 20 == 0 {
            harness
                .providers
                .reply("openai", [Reply::Slow(Duration::from_millis(100), "late"), Reply::Text("yes")]);
            let result = timeout(Duration::from_millis(5), call.send()).await;
            assert!(result.is_err(), "{result:?}");
            wait_until("the call is settled", settled).await;
        } else {
            assert_eq!(call.send().await.status, 200);
        }
    }
    wait_until("no task is left", || async { tasks() <= before }).await;
    assert!(harness.providers.requests("deepseek").len() > 150, "most calls were hedged");
    harness.stop().await;
}

/// Returns a number as soon as it has not changed for 100 milliseconds.
async fn when_stable(number: impl Fn() -> usize) -> usize {
    let (mut last, mut unchanged) = (number(), 0);
    while unchanged < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        unchanged = if number() == last { unchanged + 1 } else { 0 };
        last = number();
    }
    last
}
