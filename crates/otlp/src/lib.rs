//! Finished spans on their way to an OpenTelemetry collector, over OTLP.
//!
//! ```text
//! request -> Exporter::record -> protobuf in memory -> message (512 spans, or a second) -> collector
//!              never waits         |                     |
//!                                  full: dropped         refused or late: dropped, and counted both
//! ```
//!
//! A service has one [`Exporter`], and all services of a process one [`Otlp`]. Spans are kept for one
//! way only: what a collector does not take within ten seconds is lost, and counted. This crate alone
//! names OpenTelemetry's libraries.

mod environment;
mod export;
mod message;
mod sender;
mod target;

pub use export::{Counts, Exporter};
pub use target::{Otlp, OtlpError, Protocol};
