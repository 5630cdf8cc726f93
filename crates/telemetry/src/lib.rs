//! Telemetry of an HTTP service: trace context, sampling, spans and metrics.
//!
//! ```text
//! request -> trace context -> sampling decision -> handler -> response
//!                                                               |-> metrics and traffic window: all requests
//!                                                               '-> span: sampled, failed and slow requests
//! ```
//!
//! * [`context`] parses and formats W3C trace context.
//! * [`Sampler`] decides by the trace ID, so that services agree without coordination.
//! * [`TrafficWindow`] holds latency, throughput and error rate of the last minute, over all requests.
//! * [`Metrics`] holds Prometheus metrics whose labels come from closed sets.
//! * [`Telemetry`] combines these for one service, and [`RequestTelemetryLayer`] puts them around it.
//!
//! The pure parts take the time as an argument. Nothing here blocks, and memory is bounded.

pub mod context;
mod exchange;
mod labels;
mod metrics;
mod openmetrics;
mod per_thread;
mod request_metrics;
mod request_telemetry;
mod sampling;
mod scraped;
mod span;
mod telemetry;
mod traffic_window;

pub use context::{SpanId, TraceContext, TraceId};
pub use exchange::{Exchange, OutgoingCall};
pub use labels::{RouteId, StatusClass};
pub use metrics::{EndpointStats, Metrics};
pub use openmetrics::CONTENT_TYPE as OPENMETRICS_CONTENT_TYPE;
pub use request_metrics::{RequestMetrics, StatusClassCounts};
pub use request_telemetry::{RequestAccessors, RequestTelemetry, RequestTelemetryLayer, ResponseFuture};
pub use sampling::Sampler;
pub use scraped::{Samples, SeriesKind};
pub use span::{AttributeValue, Attributes, KeepReason, RecentSpans, Span, SpanKind, SpanSink, SpanStatus};
pub use telemetry::{Telemetry, TracerSnapshot};
pub use traffic_window::{TrafficStats, TrafficWindow};
