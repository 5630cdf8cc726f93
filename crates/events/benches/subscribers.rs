//! 10,000 subscribers of one hub, each a task that reads its stream, and 100 events per second for all of them.
//! Prints processor time and memory of ten seconds; writes nothing.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "the result is printed, and a failure panics")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use phase6_events::{Event, Hub, Snapshot, Source, TooManyWatchers, Watcher, Watchers};
use phase6_identity::Name;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const SUBSCRIBERS: usize = 10_000;
const RATE: u64 = 100;

/// A topic without state.
#[derive(Default)]
struct Topic(Watchers);

impl Source for Topic {
    fn topic(&self) -> &'static str {
        "providers"
    }

    fn snapshot(&self, _: &Name) -> BoxFuture<'static, Snapshot> {
        Box::pin(async { vec![] })
    }

    fn watch(&self, tenant: &Name, _: &Hub) -> Result<Watcher, TooManyWatchers> {
        self.0.admit(tenant).map(|(watcher, _)| watcher)
    }
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> =
        stat.rsplit_once(") ").unwrap().1.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    Duration::from_millis((fields[11] + fields[12]) * 10)
}

/// Resident memory of this process, in MB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn main() {
    // `cargo test` runs it too, briefly.
    let seconds = if std::env::args().any(|argument| argument == "--bench") { 10 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let hub = Hub::start(&TaskTracker::new(), stop.clone());
        let (events, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        hub.declare(Arc::new(Topic::default()));
        for number in 0..SUBSCRIBERS {
            // Each tenant has a share of the watchers.
            let tenant: Name = format!("tenant-{}", number % 4).parse().unwrap();
            let mut subscription = hub.subscribe(&tenant, &[], None).unwrap();
            let (events, bytes) = (Arc::clone(&events), Arc::clone(&bytes));
            tokio::spawn(async move {
                while let Some(chunk) = subscription.next().await {
                    let count = chunk.windows(6).filter(|window| window == b"\ndata:").count();
                    events.fetch_add(count as u64, Ordering::Relaxed);
                    bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let data = format!("{{\"text\":\"{}\"}}", "x".repeat(200));
        let (start, before) = (Instant::now(), processor_time());
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
        for _ in 0..RATE * seconds {
            ticks.tick().await;
            hub.publish(&Event { tenant: None, topic: "providers", kind: "summary", data: &data });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (elapsed, used) = (start.elapsed(), processor_time().saturating_sub(before));
        let received = events.load(Ordering::Relaxed);
        assert_eq!(received, RATE * seconds * SUBSCRIBERS as u64, "every subscriber got every event");
        println!(
            "{SUBSCRIBERS} subscribers, {RATE} events/s: {received} events ({} MB) in {:.1} s, {:.0} % of one core, {} MB",
            bytes.load(Ordering::Relaxed) / 1_000_000,
            elapsed.as_secs_f64(),
            100.0 * used.as_secs_f64() / elapsed.as_secs_f64(),
            memory(),
        );
        stop.cancel();
    });
}
