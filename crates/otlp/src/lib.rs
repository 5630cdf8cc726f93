//! Export of finished spans to an OpenTelemetry collector over OTLP.
//!
//! ```text
//! request -> Exporter::record -> queue of encoded spans -> batch (512 spans, or 1 s) -> collector
//!              never blocks          |                        |
//!                                    full: dropped            rejected or timed out: dropped
//! ```
//!
//! Guarantees that recording a span never blocks, that memory is bounded, and that every span is counted as
//! exported or dropped. Does not persist spans: a batch that the collector does not accept within 10 s is
//! lost.
//!
//! Each service has one [`Exporter`]; all services of a process share one [`Collector`]. No other crate
//! depends on OpenTelemetry's libraries.

mod collector;
mod encode;
mod environment;
mod export;
mod protobuf;
mod queue;
mod sender;

pub use collector::{Collector, CollectorError, EndpointError, Protocol, UnsupportedProtocol};
pub use environment::EnvironmentError;
pub use export::{ExportCounts, Exporter};
