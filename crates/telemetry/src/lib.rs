//! What a service knows of its requests: which trace they belong to, how long they took, how many
//! failed.
//!
//! ```text
//! request -> context (W3C in) -> sample? -> handler -> traffic (every request)
//!                                                   -> metrics (every request)
//!                                                   -> span (sampled, failed or slow ones)
//! ```
//!
//! * [`context`] reads and writes W3C trace context.
//! * [`sample`] decides by the trace id, so that services agree without talking.
//! * [`traffic`] counts every request of the last minute, sampled or not.
//! * [`Metrics`] holds Prometheus series whose labels come from closed sets.
//! * [`Telemetry`] and [`TelemetryLayer`] put these around a service.
//!
//! The pure parts take the time as an argument; nothing here waits or grows without bound.

pub mod context;
mod count;
mod layer;
mod metrics;
mod openmetrics;
mod record;
mod requests;
mod routes;
mod sample;
mod scrape;
mod span;
pub mod traffic;

pub use context::{SpanId, TraceContext, TraceId};
pub use layer::{Ask, TelemetryLayer, Traced, TracedFuture};
pub use metrics::{EndpointFigures, Metrics};
pub use openmetrics::CONTENT_TYPE as OPENMETRICS;
pub use record::{Exchange, OutgoingCall, Telemetry, TracerSnapshot};
pub use requests::Requests;
pub use routes::RouteId;
pub use sample::{Pace, Sampler};
pub use scrape::{SeriesKind, Values};
pub use span::{Attribute, Attributes, Kept, Kind, Recorder, Sink, Span, Status};
