//! The hub and its subscribers, in virtual time.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use phase6_events::{
    Event, EventId, HEARTBEAT, Hub, MAX_AGE, Snapshot, Source, SubscribeError, Subscription, TooManyWatchers,
    Watcher, Watchers,
};
use phase6_identity::Name;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A topic whose snapshots are numbered, unless it has none.
#[derive(Default)]
struct Topic {
    name: &'static str,
    has_snapshot: bool,
    snapshots: AtomicU32,
    watchers: Watchers,
}

impl Source for Topic {
    fn topic(&self) -> &'static str {
        self.name
    }

    fn snapshot(&self, _: &Name) -> BoxFuture<'static, Snapshot> {
        let number = self.snapshots.fetch_add(1, Ordering::Relaxed) + 1;
        let snapshot = self.has_snapshot.then(|| ("snapshot".to_owned(), format!("snapshot {number}")));
        Box::pin(async move { snapshot.into_iter().collect() })
    }

    fn watch(&self, tenant: &Name, _: &Hub) -> Result<Watcher, TooManyWatchers> {
        self.watchers.admit(tenant).map(|(watcher, _)| watcher)
    }
}

/// A hub with the topics `a` and `b`.
fn hub_with(has_snapshot: bool) -> (Hub, CancellationToken) {
    let stop = CancellationToken::new();
    let hub = Hub::start(&TaskTracker::new(), stop.clone());
    hub.declare(Arc::new(Topic { name: "a", has_snapshot, ..Topic::default() }));
    hub.declare(Arc::new(Topic { name: "b", ..Topic::default() }));
    (hub, stop)
}

fn hub() -> (Hub, CancellationToken) {
    hub_with(false)
}

fn subscribe(hub: &Hub, topics: &[&str], last: Option<EventId>) -> Subscription {
    hub.subscribe(&name("red"), topics, last).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
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
    let mut all = subscribe(&hub, &[], None);
    let mut some = subscribe(&hub, &["b"], None);
    // Both have their position before the first event.
    for subscription in [&mut all, &mut some] {
        assert_eq!(subscription.next().await.unwrap(), ":\n\n", "the stream is open");
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
    let _other = subscribe(&hub, &[], None);
    let mut returned = subscribe(&hub, &[], Some(first));
    assert_eq!(data(&read(&mut returned, 2).await), ["2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_of_unknown_position_gets_a_snapshot_first() {
    let (hub, _stop) = hub_with(true);
    let last = publish(&hub, None, "a", "1");
    let other_process = EventId { log: last.log.wrapping_add(1), ..last };
    let future = EventId { number: last.number + 1, ..last };
    for (index, position) in [None, Some(other_process), Some(future)].into_iter().enumerate() {
        let mut subscription = subscribe(&hub, &[], position);
        let (id, text) = read(&mut subscription, 1).await.remove(0);
        assert_eq!((id, text), (last, format!("snapshot {}", index + 1)));
    }
    let mut subscription = subscribe(&hub, &[], None);
    read(&mut subscription, 1).await;
    publish(&hub, None, "a", "2");
    assert_eq!(data(&read(&mut subscription, 1).await), ["2"], "events follow the snapshot");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_of_a_tenant_that_nobody_watched_gets_a_snapshot_first() {
    let (hub, _stop) = hub_with(true);
    let mut subscription = subscribe(&hub, &[], None);
    let (last, _) = read(&mut subscription, 1).await.remove(0);
    drop(subscription);
    let mut returned = subscribe(&hub, &[], Some(last));
    assert_eq!(data(&read(&mut returned, 1).await), ["snapshot 2"], "changes may not have been published");
    let mut other = subscribe(&hub, &[], Some(last));
    publish(&hub, None, "a", "1");
    assert_eq!(data(&read(&mut other, 1).await), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_is_too_slow_gets_a_snapshot_again() {
    let (hub, _stop) = hub_with(true);
    let mut slow = subscribe(&hub, &[], None);
    read(&mut slow, 1).await;
    for number in 0..10_000 {
        publish(&hub, None, "a", &number.to_string());
    }
    assert_eq!(data(&read(&mut slow, 1).await), ["snapshot 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_carries_comments_and_ends_with_the_service() {
    let (hub, stop) = hub();
    let mut subscription = subscribe(&hub, &[], None);
    assert_eq!(subscription.next().await.unwrap(), ":\n\n", "at once");
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
async fn a_stream_ends_after_five_minutes() {
    let (hub, _stop) = hub();
    let start = tokio::time::Instant::now();
    let mut subscription = subscribe(&hub, &[], None);
    while subscription.next().await.is_some() {}
    assert_eq!(start.elapsed(), MAX_AGE);
    assert_eq!(subscription.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn events_of_one_interval_are_one_chunk() {
    let (hub, _stop) = hub();
    let first = publish(&hub, None, "a", "0");
    let _other = subscribe(&hub, &[], None);
    let mut subscription = subscribe(&hub, &[], Some(first));
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
    let _other = subscribe(&hub, &[], None);
    let (mut last, mut received) = (first, vec![]);
    while received.len() < 2_000 {
        let mut subscription = subscribe(&hub, &[], Some(last));
        let events = read(&mut subscription, 1).await;
        last = events.last().unwrap().0;
        received.extend(events.into_iter().map(|(_, data)| data));
    }
    publisher.await.unwrap();
    assert_eq!(received, (1..=2_000).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_unknown_topic_is_refused_with_those_that_exist() {
    let (hub, _stop) = hub();
    let error = hub.subscribe(&name("red"), &["a", "c"], None).err();
    let expected = SubscribeError::UnknownTopic { unknown: "c".into(), topics: vec!["a", "b"] };
    assert_eq!(error, Some(expected));
}
