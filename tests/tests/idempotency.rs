//! Idempotency keys over two replicas as processes on one PostgreSQL, while replicas are killed.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use phase6_store::testing::{Kind, TestDatabase};
use phase6_tests::{ServiceProcess, client};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Writers with one key, and writers with a key of their own.
const WRITERS: usize = 50;
/// Pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(20);
/// Writers that have a response.
static DONE: AtomicUsize = AtomicUsize::new(0);
/// Longest time until a writer has a response.
const LIMIT: Duration = Duration::from_secs(30);

async fn start_replica(database: &TestDatabase) -> ServiceProcess {
    let url = database.connect_string();
    ServiceProcess::with_environment("budget", &[], &[("PHASE6_DATABASE_URL", &url)]).await
}

/// Records a workflow, on one replica or the other, until a response arrives. Returns it.
async fn record(
    http: reqwest::Client,
    ports: [u16; 2],
    first: usize,
    key: String,
    workflow: String,
) -> Value {
    let body = json!({"cohortId": "c", "workflowId": workflow, "provider": "openai", "cost": 1.0});
    let writing = async {
        for attempt in first.. {
            let url = format!("http://127.0.0.1:{}/api/v1/budget/record-workflow", ports[attempt % 2]);
            let request = http.post(url).header("idempotency-key", format!("\"{key}\"")).json(&body);
            if let Ok(response) = request.send().await
                && response.status() == 200
                && let Ok(response) = response.json().await
            {
                return response;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Value::Null
    };
    tokio::time::timeout(LIMIT, writing).await.expect("a response")
}

#[tokio::test]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn every_acknowledged_effect_exists_once_although_a_replica_is_killed() {
    let database = TestDatabase::create(Kind::Postgres).await;
    let (killed, other) = (start_replica(&database).await, start_replica(&database).await);
    let ports = [killed.port, other.port];
    let http = client();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        for (key, workflow) in
            [("shared".to_owned(), "shared".to_owned()), (format!("own-{number}"), format!("own-{number}"))]
        {
            let http = http.clone();
            writers.spawn(async move {
                let response = record(http, ports, number, key, workflow.clone()).await;
                DONE.fetch_add(1, Ordering::Relaxed);
                (workflow, response)
            });
        }
    }
    // In the middle of the writes.
    let deadline = Instant::now() + LIMIT;
    while DONE.load(Ordering::Relaxed) < WRITERS / 2 {
        assert!(Instant::now() < deadline, "the writers have no responses");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    killed.program.signal(Signal::KILL);
    let responses = writers.join_all().await;
    assert_eq!(responses.len(), 2 * WRITERS);
    let shared: Vec<&Value> =
        responses.iter().filter(|(workflow, _)| workflow == "shared").map(|(_, response)| response).collect();
    assert!(shared.iter().all(|response| *response == shared[0]), "{shared:?}");
    assert!(responses.iter().all(|(_, response)| response["recorded"] == true), "{responses:?}");
    let (_, metrics) = other.get("/api/v1/budget/metrics/c").await.unwrap();
    assert_eq!(metrics["metrics"]["workflowsExecuted"], WRITERS + 1, "{metrics}");
    assert_eq!(other.stop(), Some(0));
}
