//! What waits between requests and the collector.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use phase6_telemetry::{Sink, Span};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    Otlp,
    message::{Frame, write},
    sender::{Refused, Sender},
    target::resource,
};

/// Spans that wait at most.
const QUEUE: u64 = 2_048;
/// Their bytes at most, and one span more: a message of all that wait is smaller than the 4 MiB that collectors
/// take over gRPC.
const QUEUE_BYTES: usize = 2 * 1024 * 1024;
/// Memory for the bytes of a message that is kept from one to the next, at most.
const KEPT: usize = 256 * 1024;
/// So many are sent at once.
const BATCH: u64 = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Takes the finished spans of one service. Never blocks; what does not fit is dropped and counted.
#[derive(Debug)]
pub struct Exporter {
    waiting: Arc<Waiting>,
    counters: Arc<Counters>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Counters {
    exported: AtomicU64,
    full: AtomicU64,
    failed: AtomicU64,
}

/// What became of spans since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector took them.
    pub exported: u64,
    /// The queue was full.
    pub queue_full: u64,
    /// The collector did not take them in time.
    pub export_failed: u64,
}

impl Otlp {
    /// Begins to export the spans of a service. Must be called on a Tokio runtime.
    pub fn exporter(&self, service: &'static str, version: &'static str) -> Exporter {
        let (counters, waiting) = (Arc::<Counters>::default(), Arc::<Waiting>::default());
        let closing = CancellationToken::new();
        let pump = Pump {
            service,
            endpoint: self.endpoint().to_owned(),
            sender: self.sender().clone(),
            frame: Frame::new(&resource(service, version), version),
            waiting: Arc::clone(&waiting),
            counters: Arc::clone(&counters),
            closing: closing.clone(),
        };
        let task = Mutex::new(Some(tokio::spawn(pump.run())));
        Exporter { waiting, counters, closing, task }
    }
}

impl Sink for Exporter {
    fn record(&self, span: &Span) {
        if !self.waiting.add(span) {
            self.counters.full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Exporter {
    /// What became of spans since the start.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            exported: read(&self.counters.exported),
            queue_full: read(&self.counters.full),
            export_failed: read(&self.counters.failed),
        }
    }

    /// Takes no more, sends what waits, and ends. May take as long as the collector does.
    pub async fn close(&self) {
        self.closing.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

/// What waits for the next message. Written by requests, emptied by the pump.
#[derive(Debug, Default)]
struct Waiting {
    spans: Mutex<Spans>,
    /// The first span is there.
    some: Notify,
    /// There are as many as go into one message.
    enough: Notify,
}

#[derive(Debug, Default)]
struct Spans {
    written: Vec<u8>,
    count: u64,
    closed: bool,
}

impl Waiting {
    /// Takes a span; false if there is no room.
    fn add(&self, span: &Span) -> bool {
        let count = {
            let mut spans = self.spans.lock();
            if spans.closed || spans.count >= QUEUE || spans.written.len() >= QUEUE_BYTES {
                return false;
            }
            write(span, &mut spans.written);
            spans.count += 1;
            spans.count
        };
        if count == 1 {
            self.some.notify_one();
        } else if count == BATCH {
            self.enough.notify_one();
        }
        true
    }

    /// Moves what waits into `to`, which is for others to fill in its place, and says how many spans it is.
    fn take(&self, to: &mut Vec<u8>, last: bool) -> u64 {
        to.clear();
        to.shrink_to(KEPT);
        let mut spans = self.spans.lock();
        spans.closed |= last;
        mem::swap(&mut spans.written, to);
        mem::take(&mut spans.count)
    }
}

/// Carries spans to the collector.
struct Pump {
    service: &'static str,
    endpoint: String,
    sender: Sender,
    frame: Frame,
    waiting: Arc<Waiting>,
    counters: Arc<Counters>,
    closing: CancellationToken,
}

impl Pump {
    async fn run(self) {
        let mut failing = false;
        // Used for one message after the other: memory that is given back in such pieces is found again slowly,
        // by requests too.
        let (mut spans, mut room) = (Vec::new(), BytesMut::new());
        loop {
            let count = self.gather(&mut spans).await;
            if count == 0 {
                return;
            }
            let message = self.frame.message(&spans, &mut room);
            let is_large = message.len() > KEPT;
            let (lost, fault) = match self.sender.send(message).await {
                Ok(Refused { spans: 0, .. }) => (0, None),
                Ok(Refused { spans, why }) => {
                    (spans.min(count), Some(format!("it refuses {spans} of {count} spans: {why}")))
                }
                Err(fault) => (count, Some(fault)),
            };
            if is_large {
                room = BytesMut::new();
            }
            self.counters.failed.fetch_add(lost, Ordering::Relaxed);
            self.counters.exported.fetch_add(count - lost, Ordering::Relaxed);
            self.tell(fault.as_deref(), failing);
            failing = fault.is_some();
        }
    }

    /// Told when it begins and when it ends; the counters have the rest.
    fn tell(&self, fault: Option<&str>, was_failing: bool) {
        match fault {
            Some(error) if !was_failing => tracing::warn!(
                service = self.service,
                endpoint = self.endpoint,
                protocol = self.sender.protocol(),
                error,
                "spans cannot be exported"
            ),
            None if was_failing => tracing::info!(service = self.service, "spans are exported again"),
            _ => {}
        }
    }

    /// The next spans: as many as there are within a moment. None at the end.
    async fn gather(&self, spans: &mut Vec<u8>) -> u64 {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => {}
            () = self.waiting.some.notified() => {
                // Those that follow wake nobody: a request that is sampled has no more to do.
                tokio::select! {
                    biased;
                    () = self.closing.cancelled() => {}
                    () = self.waiting.enough.notified() => {}
                    () = tokio::time::sleep(GATHER) => {}
                }
            }
        }
        self.waiting.take(spans, self.closing.is_cancelled())
    }
}
