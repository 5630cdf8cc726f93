//! Exporter of one service's spans.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use phase6_telemetry::{Span, SpanSink};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    Collector,
    collector::resource,
    encode::Envelope,
    queue::{MAX_RETAINED_BYTES, SpanQueue},
    sender::{PartialRejection, Sender},
};

/// Delay from the first span of a batch until the batch is sent, full or not.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// Exporter of one service's finished spans. Recording never blocks: a span that does not fit into the queue
/// is dropped and counted.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<SpanQueue>,
    counters: Arc<Counters>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Counters {
    exported: AtomicU64,
    queue_full: AtomicU64,
    export_failed: AtomicU64,
}

/// Numbers of spans since the start, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportCounts {
    /// Spans that the collector accepted.
    pub exported: u64,
    /// Spans dropped because the queue was full or closed.
    pub queue_full: u64,
    /// Spans dropped because the collector rejected them or did not accept them in time.
    pub export_failed: u64,
}

impl Collector {
    /// Starts exporting the spans of a service. Must be called on a Tokio runtime.
    pub fn start_exporter(&self, service: &'static str, version: &'static str) -> Exporter {
        let (counters, queue) = (Arc::<Counters>::default(), Arc::<SpanQueue>::default());
        let closing = CancellationToken::new();
        let task = ExportTask {
            service,
            endpoint: self.endpoint().to_owned(),
            sender: self.sender().clone(),
            envelope: Envelope::new(&resource(service, version), version),
            queue: Arc::clone(&queue),
            counters: Arc::clone(&counters),
            closing: closing.clone(),
        };
        Exporter { queue, counters, closing, task: Mutex::new(Some(tokio::spawn(task.run()))) }
    }
}

impl SpanSink for Exporter {
    fn record(&self, span: &Span) {
        if !self.queue.push(span) {
            self.counters.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Exporter {
    /// Returns the numbers of spans since the start, by result.
    pub fn counts(&self) -> ExportCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExportCounts {
            exported: read(&self.counters.exported),
            queue_full: read(&self.counters.queue_full),
            export_failed: read(&self.counters.export_failed),
        }
    }

    /// Closes the queue, exports the spans in it, and returns when that is done. May take as long as the
    /// collector takes; callers set a time limit.
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

/// Background task that sends queued spans to the collector, one batch at a time.
struct ExportTask {
    service: &'static str,
    endpoint: String,
    sender: Sender,
    envelope: Envelope,
    queue: Arc<SpanQueue>,
    counters: Arc<Counters>,
    closing: CancellationToken,
}

impl ExportTask {
    async fn run(self) {
        let mut failing = false;
        // Reused for every batch: freeing and reallocating blocks of this size slows the allocator down for
        // requests too.
        let (mut encoded, mut buffer) = (Vec::new(), BytesMut::new());
        loop {
            let count = self.next_batch(&mut encoded).await;
            if count == 0 {
                return;
            }
            let message = self.envelope.message(&encoded, &mut buffer);
            let is_large = message.len() > MAX_RETAINED_BYTES;
            let (lost, error) = match self.sender.send(message).await {
                Ok(PartialRejection { spans: 0, .. }) => (0, None),
                Ok(PartialRejection { spans, message }) => (
                    spans.min(count),
                    Some(format!("collector rejected {spans} of {count} spans: {message}")),
                ),
                Err(error) => (count, Some(error)),
            };
            if is_large {
                buffer = BytesMut::new();
            }
            self.counters.export_failed.fetch_add(lost, Ordering::Relaxed);
            self.counters.exported.fetch_add(count - lost, Ordering::Relaxed);
            self.log_transition(error.as_deref(), failing);
            failing = error.is_some();
        }
    }

    /// Logs when exporting begins to fail and when it recovers. Failures in between show in the counters
    /// only.
    fn log_transition(&self, error: Option<&str>, was_failing: bool) {
        match error {
            Some(error) if !was_failing => tracing::warn!(
                service = self.service,
                endpoint = self.endpoint,
                protocol = self.sender.protocol(),
                error,
                "failed to export spans"
            ),
            None if was_failing => tracing::info!(service = self.service, "span export recovered"),
            _ => {}
        }
    }

    /// Waits for the next batch, moves it into `encoded` and returns its number of spans: 0 once the exporter
    /// is closed and the queue is empty.
    async fn next_batch(&self, encoded: &mut Vec<u8>) -> u64 {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => {}
            () = self.queue.first_span.notified() => {
                // Spans between the first one and a full batch wake nobody: they would cost their requests a
                // notification each.
                tokio::select! {
                    biased;
                    () = self.closing.cancelled() => {}
                    () = self.queue.full_batch.notified() => {}
                    () = tokio::time::sleep(BATCH_DELAY) => {}
                }
            }
        }
        self.queue.take(encoded, self.closing.is_cancelled())
    }
}
