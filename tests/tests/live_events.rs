//! Live events of the fleet over one connection to the gateway.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use phase6_tests::{EXAMPLE, Fleet};
use serde_json::{Value, json};

/// Longest wait for an event.
const LIMIT: Duration = Duration::from_secs(20);

/// Live events of a client.
struct Events {
    response: reqwest::Response,
    buffer: String,
}

/// ID, kind and data of an event.
type Event = (String, String, Value);

impl Events {
    async fn open(fleet: &Fleet, path: &str, last: Option<&str>) -> Self {
        let mut request = fleet.http.get(fleet.url("web", path));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
                };
                let event = (field("id: "), field("event: "), field("data: "));
                self.buffer = String::from(rest);
                // Comments have no kind.
                if !event.1.is_empty() {
                    return (event.0, event.1, serde_json::from_str(&event.2).unwrap());
                }
                continue;
            }
            let part = tokio::time::timeout(LIMIT, self.response.chunk()).await.expect("an event in time");
            self.buffer.push_str(std::str::from_utf8(&part.unwrap().expect("an open stream")).unwrap());
        }
    }

    /// Waits for a summary with this maximum concurrency.
    async fn wait_for(&mut self, concurrency: u64) -> Event {
        loop {
            let event = self.next().await;
            if event.2["policy"]["maxConcurrency"] == concurrency {
                return event;
            }
        }
    }
}

async fn change(fleet: &Fleet, concurrency: u64) {
    let url = fleet.url("web", "/api/v1/providers/policy");
    let response = fleet.http.post(url).json(&json!({"maxConcurrency": concurrency})).send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn the_gateway_joins_the_events_of_all_services_and_resumes() {
    let fleet = Fleet::with(EXAMPLE, &[], &[]);
    let mut events = Events::open(&fleet, "/api/v1/events", None).await;
    let (_, kind, data) = events.next().await;
    assert_eq!((kind.as_str(), &data["budget"]["limit"]), ("budget.summary", &json!(5.0)));
    change(&fleet, 5).await;
    let (id, _, _) = events.wait_for(5).await;
    drop(events);
    // Changes while no connection is open.
    let mut other = Events::open(&fleet, "/api/v1/events?topics=budget", None).await;
    change(&fleet, 6).await;
    other.wait_for(6).await;
    change(&fleet, 7).await;
    other.wait_for(7).await;
    let mut resumed = Events::open(&fleet, "/api/v1/events?topics=budget,coach", Some(&id)).await;
    let mut seen = vec![];
    while seen.last() != Some(&7) {
        seen.push(resumed.next().await.2["policy"]["maxConcurrency"].as_u64().unwrap());
    }
    seen.dedup();
    assert!(seen.ends_with(&[6, 7]), "{seen:?}");
    let (status, error) = fleet.get("web", "/api/v1/events?topics=nothing").await;
    assert!(
        status == 400 && error["error"]["message"].as_str().unwrap().contains("accepted: training, meta"),
        "{error}"
    );
    assert_eq!(fleet.stop(), Some(0));
}
