//! The queue between requests and the collector.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::SpanExporter as _;
use phase6_telemetry::{Sink, Span};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{Otlp, OtlpError, convert::convert, target::EXPORT};

/// Spans that wait at most.
const QUEUE: usize = 2_048;
/// Spans in one message at most.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Takes the finished spans of one service. Never blocks; what does not fit is dropped and counted.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Sender<Span>,
    /// There are as many as go into one message.
    enough: Arc<Notify>,
    counters: Arc<Counters>,
    closing: CancellationToken,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
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
    ///
    /// # Errors
    ///
    /// An environment variable of OpenTelemetry's is not usable.
    pub fn exporter(&self, service: &'static str, version: &'static str) -> Result<Exporter, OtlpError> {
        let sender = self.sender(service, version)?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (counters, enough) = (Arc::<Counters>::default(), Arc::<Notify>::default());
        let closing = CancellationToken::new();
        let pump = Pump {
            service,
            endpoint: self.endpoint().to_owned(),
            protocol: self.protocol(),
            sender,
            scope: InstrumentationScope::builder("phase6").with_version(version).build(),
            waiting,
            enough: Arc::clone(&enough),
            counters: Arc::clone(&counters),
            closing: closing.clone(),
        };
        let task = parking_lot::Mutex::new(Some(tokio::spawn(pump.run())));
        Ok(Exporter { queue, enough, counters, closing, task })
    }
}

impl Sink for Exporter {
    fn record(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counters.full.fetch_add(1, Ordering::Relaxed);
        }
        if QUEUE - self.queue.capacity() >= BATCH {
            self.enough.notify_one();
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

/// Carries spans from the queue to the collector.
struct Pump {
    service: &'static str,
    endpoint: String,
    protocol: &'static str,
    sender: SpanExporter,
    scope: InstrumentationScope,
    waiting: mpsc::Receiver<Span>,
    enough: Arc<Notify>,
    counters: Arc<Counters>,
    closing: CancellationToken,
}

impl Pump {
    async fn run(mut self) {
        let mut failing = false;
        loop {
            let batch = self.gather().await;
            if batch.is_empty() {
                return;
            }
            let count = batch.len() as u64;
            let spans = batch.into_iter().map(|span| convert(span, &self.scope)).collect();
            let result = match tokio::time::timeout(EXPORT, self.sender.export(spans)).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", EXPORT.as_secs())),
            };
            let counter = if result.is_ok() { &self.counters.exported } else { &self.counters.failed };
            counter.fetch_add(count, Ordering::Relaxed);
            // Told when it begins and when it ends; the counter has the rest.
            let (endpoint, protocol) = (&self.endpoint, self.protocol);
            match &result {
                Err(error) if !failing => {
                    tracing::warn!(
                        service = self.service,
                        endpoint,
                        protocol,
                        error,
                        "spans cannot be exported"
                    );
                }
                Ok(()) if failing => tracing::info!(service = self.service, "spans are exported again"),
                _ => {}
            }
            failing = result.is_err();
        }
    }

    /// The next spans: as many as there are within a moment. None at the end.
    async fn gather(&mut self) -> Vec<Span> {
        let mut batch = Vec::new();
        if !self.first(&mut batch).await || batch.len() == BATCH {
            return batch;
        }
        // The others come into the queue and wake nobody: a request that is sampled has no more to do.
        tokio::select! {
            biased;
            () = self.closing.cancelled() => {}
            () = self.enough.notified() => {}
            () = tokio::time::sleep(GATHER) => {}
        }
        while batch.len() < BATCH
            && let Ok(span) = self.waiting.try_recv()
        {
            batch.push(span);
        }
        batch
    }

    /// Waits for spans; false if there will be none any more.
    async fn first(&mut self, batch: &mut Vec<Span>) -> bool {
        tokio::select! {
            biased;
            () = self.closing.cancelled(), if !self.waiting.is_closed() => {
                self.waiting.close();
                self.waiting.recv_many(batch, BATCH).await > 0
            }
            added = self.waiting.recv_many(batch, BATCH) => added > 0,
        }
    }
}
