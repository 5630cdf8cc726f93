//! The hub and its subscribers, in virtual time.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use phase6_events::{Event, EventId, Filter, HEARTBEAT, Hub, Snapshot, Subscription};
use phase6_identity::Name;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const NO_SNAPSHOT: fn() -> Snapshot = || Arc::new(|| Box::pin(async { None }));

fn hub() -> (Hub, CancellationToken) {
    let stop = CancellationToken::new();
    (Hub::start(&TaskTracker::new(), stop.clone()), stop)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn filter(tenant: &str, topics: &[&'static str]) -> Filter {
    Filter { tenant: name(tenant), topics: topics.to_vec() }
}

fn publish(hub: &Hub, tenant: Option<&str>, topic: &'static str, data: &str) -> EventId {
    let tenant = tenant.map(name);
    hub.publish(&Event { tenant: tenant.as_ref(), topic, kind: "change", data })
}

/// Reads chunks until `count` events have arrived. Returns their IDs and data.
async fn read(subscription: &mut Subscription, count: usize) -> Vec<(EventId, String)> {
    let mut events = vec![];
    while events.len() < count {
        let chunk = subscription.next().await.expect("an event");
        let text = std::str::from_utf8(&chunk).unwrap().to_owned();
        for event in text.split("\n\n").filter(|event| event.contains("data: ")) {
            let field = |name: &str| {
                event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
            };
            events.push((field("id: ").parse().unwrap(), field("data: ")));
        }
    }
    events
}

fn data(events: &[(EventId, String)]) -> Vec<&str> {
    events.iter().map(|(_, data)| data.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn subscribers_get_the_events_of_their_tenant_and_topics() {
    let (hub, _stop) = hub();
    let mut all = hub.subscribe(filter("red", &[]), None, NO_SNAPSHOT());
    let mut some = hub.subscribe(filter("red", &["b"]), None, NO_SNAPSHOT());
    // Both have their position before the first event.
    for subscription in [&mut all, &mut some] {
        assert!(tokio::time::timeout(Duration::from_secs(1), subscription.next()).await.is_err());
    }
    for (tenant, topic, data) in
        [(Some("red"), "a", "1"), (Some("blue"), "b", "2"), (None, "b", "3"), (Some("red"), "b", "4")]
    {
        publish(&hub, tenant, topic, data);
    }
    assert_eq!(data(&read(&mut all, 3).await), ["1", "3", "4"]);
    assert_eq!(data(&read(&mut some, 2).await), ["3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_returns_goes_on_after_its_last_event() {
    let (hub, _stop) = hub();
    let first = publish(&hub, None, "a", "1");
    for data in ["2", "3"] {
        publish(&hub, None, "a", data);
    }
    let mut returned = hub.subscribe(filter("red", &[]), Some(first), NO_SNAPSHOT());
    assert_eq!(data(&read(&mut returned, 2).await), ["2", "3"]);
}

/// A snapshot that counts how often it is made.
fn counted(count: &Arc<AtomicU32>) -> Snapshot {
    let count = Arc::clone(count);
    Arc::new(move || {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move { Some(("snapshot", format!("snapshot {number}"))) })
    })
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_of_unknown_position_gets_a_snapshot_first() {
    let (hub, _stop) = hub();
    let last = publish(&hub, None, "a", "1");
    let snapshots = Arc::default();
    let other_process = EventId { log: last.log.wrapping_add(1), ..last };
    let future = EventId { number: last.number + 1, ..last };
    for (index, position) in [None, Some(other_process), Some(future)].into_iter().enumerate() {
        let mut subscription = hub.subscribe(filter("red", &[]), position, counted(&snapshots));
        let (id, text) = read(&mut subscription, 1).await.remove(0);
        assert_eq!((id, text), (last, format!("snapshot {}", index + 1)));
    }
    let mut subscription = hub.subscribe(filter("red", &[]), None, counted(&snapshots));
    read(&mut subscription, 1).await;
    publish(&hub, None, "a", "2");
    assert_eq!(data(&read(&mut subscription, 1).await), ["2"], "events follow the snapshot");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_is_too_slow_gets_a_snapshot_again() {
    let (hub, _stop) = hub();
    let snapshots = Arc::default();
    let mut slow = hub.subscribe(filter("red", &[]), None, counted(&snapshots));
    read(&mut slow, 1).await;
    for number in 0..10_000 {
        publish(&hub, None, "a", &number.to_string());
    }
    assert_eq!(data(&read(&mut slow, 1).await), ["snapshot 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_carries_comments_and_ends_with_the_service() {
    let (hub, stop) = hub();
    let mut subscription = hub.subscribe(filter("red", &[]), None, NO_SNAPSHOT());
    for _ in 0..3 {
        let start = tokio::time::Instant::now();
        assert_eq!(subscription.next().await.unwrap(), ":\n\n");
        assert_eq!(start.elapsed().as_secs(), HEARTBEAT.as_secs());
    }
    assert_eq!(hub.subscribers(), 1);
    stop.cancel();
    assert_eq!(subscription.next().await, None);
    drop(subscription);
    assert_eq!(hub.subscribers(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_of_one_interval_are_one_chunk() {
    let (hub, _stop) = hub();
    let first = publish(&hub, None, "a", "0");
    let mut subscription = hub.subscribe(filter("red", &[]), Some(first), NO_SNAPSHOT());
    for number in 1..=20 {
        publish(&hub, None, "a", &number.to_string());
    }
    let chunk = subscription.next().await.unwrap();
    assert_eq!(chunk.windows(6).filter(|window| window == b"data: ").count(), 20);
}

#[tokio::test]
async fn a_subscriber_that_is_cut_off_at_any_time_misses_nothing() {
    let (hub, _stop) = hub();
    let first = publish(&hub, None, "a", "0");
    let publisher = {
        let hub = hub.clone();
        tokio::spawn(async move {
            for number in 1..=2_000 {
                publish(&hub, None, "a", &number.to_string());
                if number % 10 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        })
    };
    let (mut last, mut received) = (first, vec![]);
    while received.len() < 2_000 {
        let mut subscription = hub.subscribe(filter("red", &[]), Some(last), NO_SNAPSHOT());
        let events = read(&mut subscription, 1).await;
        last = events.last().unwrap().0;
        received.extend(events.into_iter().map(|(_, data)| data));
    }
    publisher.await.unwrap();
    assert_eq!(received, (1..=2_000).map(|number| number.to_string()).collect::<Vec<_>>());
}
