//! Telemetry of one service: its metrics, recent traffic, spans and sampling.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use phase6_policy::Tracing;
use serde::Serialize;

use crate::{
    Metrics, RecentSpans, Sampler, Span, SpanId, SpanSink, TraceContext, TrafficStats, TrafficWindow,
    context::random_ids, sampling::AdaptiveRate,
};

/// Number of spans kept in memory for display. Deliberately small: span memory competes with the memory that
/// requests use for the processor's caches.
const RECENT_SPANS: usize = 20;

/// Telemetry of one service.
pub struct Telemetry {
    metrics: Metrics,
    recent_spans: RecentSpans,
    export: Option<Arc<dyn SpanSink>>,
    pub(crate) traffic: TrafficWindow,
    adaptive_rate: Mutex<AdaptiveRate>,
    sampler: Sampler,
    /// Most recent sampling rate, as the bits of an `f64`.
    sampling_rate_bits: AtomicU64,
    /// Number of sampled requests in flight.
    pub(crate) active_traces: AtomicU64,
    pub(crate) epoch: Instant,
}

/// Telemetry behind its own reference count. Each connection holds a separate outer `Arc`: if all
/// requests cloned one `Arc`, they would contend for its count.
pub(crate) type TelemetryHandle = Arc<Arc<Telemetry>>;

/// Tracing state of a service, as the observability endpoints show it. Traffic statistics cover all requests
/// of the last minute, sampled or not; latencies are in milliseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TracerSnapshot {
    /// Number of sampled requests in flight.
    pub active_traces: u64,
    /// Number of spans recorded since the start.
    pub total_traces: u64,
    /// Number of requests completed since the start.
    pub total_requests: u64,
    /// Latency, throughput and error rate.
    #[serde(flatten)]
    pub traffic: TrafficStats,
    /// Current sampling rate, from 0 to 1.
    pub sampling_rate: f64,
    /// The newest spans, newest first.
    pub spans: Vec<Span>,
}

impl Telemetry {
    /// Creates the telemetry of a service. Its routes are declared later, with [`Metrics::declare_routes`].
    /// Finished spans are kept in memory for display and passed to `export`.
    pub fn new(service: &str, sampler: Sampler, export: Option<Arc<dyn SpanSink>>) -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::new(service),
            export,
            recent_spans: RecentSpans::new(RECENT_SPANS),
            traffic: TrafficWindow::default(),
            adaptive_rate: Mutex::default(),
            sampler,
            sampling_rate_bits: AtomicU64::new(0),
            active_traces: AtomicU64::new(0),
            epoch: Instant::now(),
        })
    }

    /// Returns the service's Prometheus metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the newest spans.
    pub fn recent_spans(&self) -> &RecentSpans {
        &self.recent_spans
    }

    /// Returns the sampling rate of the most recent request, from 0 to 1: the policy's rate, or less if the
    /// policy sets a target number of spans per second.
    pub fn sampling_rate(&self) -> f64 {
        f64::from_bits(self.sampling_rate_bits.load(Ordering::Relaxed))
    }

    /// Returns the tracing state for display.
    pub fn snapshot(&self) -> TracerSnapshot {
        TracerSnapshot {
            active_traces: self.active_traces.load(Ordering::Relaxed),
            total_traces: self.recent_spans.recorded(),
            total_requests: self.metrics.by_status_class().total(),
            traffic: self.traffic.stats(self.now_ns()),
            sampling_rate: self.sampling_rate(),
            spans: self.recent_spans.newest(RECENT_SPANS),
        }
    }

    /// Returns the trace context of a request: a new span of the trace of `parent`, or of a new trace without
    /// one. The parent's sampling decision is followed if `trusted`. Without a policy the request is not
    /// sampled.
    #[inline]
    pub fn trace_context(
        &self,
        parent: Option<TraceContext>,
        trusted: bool,
        policy: Option<&Tracing>,
    ) -> TraceContext {
        let (trace_id, span_id) = match &parent {
            Some(parent) => (parent.trace_id, SpanId::random()),
            None => random_ids(),
        };
        let sampled = policy.is_some_and(|policy| {
            self.sampler.should_sample(trace_id, parent.as_ref(), trusted, self.next_rate(policy))
        });
        TraceContext { trace_id, span_id, sampled }
    }

    /// Records a finished span.
    pub(crate) fn record_span(&self, span: Span) {
        if let Some(export) = &self.export {
            export.record(&span);
        }
        self.recent_spans.record(span);
    }

    /// Counts a request and returns its sampling rate.
    fn next_rate(&self, policy: &Tracing) -> f64 {
        let target = policy.target_spans_per_second.map(|target| target as f64);
        let rate = match target {
            None => policy.sampling_rate,
            Some(_) => self.adaptive_rate.lock().next(policy.sampling_rate, target, self.now_ns()),
        };
        // Written only when it changes: an unconditional store would invalidate the cache line for all
        // threads.
        if self.sampling_rate_bits.load(Ordering::Relaxed) != rate.to_bits() {
            self.sampling_rate_bits.store(rate.to_bits(), Ordering::Relaxed);
        }
        rate
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}
