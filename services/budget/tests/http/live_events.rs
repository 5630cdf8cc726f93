//! Live events.

use http::Method;
use serde_json::Value;

use crate::harness::Harness;

#[tokio::test]
async fn a_live_stream_ends_with_the_service() {
    let harness = Harness::start(&[], &[]).await;
    let mut events = harness.service.request(Method::GET, "/api/v1/providers/realtime").open().await;
    let first = events.next().await.unwrap();
    let text = std::str::from_utf8(&first).unwrap();
    assert!(text.starts_with("id: ") && text.contains("\nevent: summary\ndata: {"), "{text}");
    let data: Value =
        serde_json::from_str(text.lines().nth(2).unwrap().trim_start_matches("data: ")).unwrap();
    assert_eq!(data["budget"]["limit"], 5.0);
    assert_eq!(
        harness.service.get_json::<Value>("/api/v1/providers/performance-stream").await["policy"]["maxConcurrency"],
        4
    );
    harness.stop().await;
    events.read().await;
}

/// Events of a stream: ID, and the maximum concurrency of the policy.
type Seen = Vec<(String, u64)>;

fn events(text: &str) -> Seen {
    let event = |event: &str| {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let data: Value = serde_json::from_str(&field("data: ")?).unwrap();
        Some((field("id: ")?, data["policy"]["maxConcurrency"].as_u64().unwrap()))
    };
    text.split("\n\n").filter_map(event).collect()
}

/// Reads whole events until `is_last` accepts one, or the limit is reached.
async fn read_until(
    harness: &Harness,
    last: Option<&str>,
    limit: usize,
    is_last: impl Fn(u64) -> bool,
) -> Seen {
    let mut request = harness.service.request(Method::GET, "/api/v1/providers/realtime");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let mut stream = request.open().await;
    let mut seen = vec![];
    while seen.len() < limit {
        // Events are written whole.
        let part = stream.next().await.unwrap();
        seen.extend(events(std::str::from_utf8(&part).unwrap()));
        if seen.last().is_some_and(|(_, concurrency)| is_last(*concurrency)) {
            break;
        }
    }
    seen
}

#[tokio::test]
async fn a_watcher_whose_connection_is_cut_misses_no_event() {
    const CUTS: u64 = 50;
    const LAST: u64 = 12;
    let harness = Harness::start(&[], &[]).await;
    let cutting = async {
        let mut seen = Seen::new();
        for cut in 1..=CUTS {
            // Every change is an event. The connection is cut after each.
            let concurrency = if cut == CUTS { LAST } else { 5 + cut % 7 };
            let change = serde_json::json!({"maxConcurrency": concurrency});
            assert_eq!(harness.service.post("/api/v1/providers/policy", &change).await.status, 200);
            let last = seen.last().map(|(id, _)| id.clone());
            seen.extend(read_until(&harness, last.as_deref(), 1, |_| true).await);
        }
        while seen.last().is_none_or(|(_, concurrency)| *concurrency != LAST) {
            let last = seen.last().map(|(id, _)| id.clone());
            seen.extend(read_until(&harness, last.as_deref(), 1, |_| true).await);
        }
        seen
    };
    let (uncut, cut) =
        tokio::join!(read_until(&harness, None, usize::MAX, |concurrency| concurrency == LAST), cutting);
    harness.stop().await;
    assert!(cut.len() as u64 >= CUTS, "{} events", cut.len());
    // Both begin with a snapshot, perhaps at another moment.
    let start = uncut.iter().position(|event| *event == cut[1]).unwrap();
    assert_eq!(uncut[start..], cut[1..]);
}

#[tokio::test]
async fn a_lone_watcher_that_returns_sees_what_has_changed_meanwhile() {
    let harness = Harness::start(&[], &[]).await;
    let seen = read_until(&harness, None, 1, |_| true).await;
    for concurrency in [9, 10, 11] {
        let change = serde_json::json!({"maxConcurrency": concurrency});
        assert_eq!(harness.service.post("/api/v1/providers/policy", &change).await.status, 200);
    }
    let last = seen.last().map(|(id, _)| id.clone());
    let next = read_until(&harness, last.as_deref(), 10, |concurrency| concurrency == 11).await;
    assert!(next.len() <= 2, "{next:?}");
    harness.stop().await;
}
