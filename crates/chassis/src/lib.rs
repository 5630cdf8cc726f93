//! What a service is built on.
//!
//! ```text
//! socket -> accept loop (caps, time limits) -> stack -> routes -> handler
//!                                                ^
//!             policy document -> Enforcer -------'   one pointer swap, read once per request
//! ```
//!
//! A service is a [`Definition`]: name, port, routes, what it needs. [`start`] puts everything
//! else around it: the [stack](stack.rs) of layers, health, metrics, description, observability,
//! and a stop that loses no request. Handlers answer with [`Reply`] or [`ApiError`], take
//! [`Json`], [`Query`] and [`Path`], and call peers through [`Upstream`].

mod caller;
mod common;
mod components;
pub mod deadline;
mod describe;
mod enforce;
mod envelope;
mod extract;
mod purge;
mod series;
mod server;
mod service;
mod settings;
mod stack;
mod upstream;

/// The layers that services meet in their own code.
pub use phase6_breaker as breaker;
pub use phase6_cache as cache;
pub use phase6_catalog as catalog;
pub use phase6_store as store;
pub use phase6_telemetry as telemetry;

pub use caller::{Access, ApiKeys, Caller, INTERNAL, InternalToken, InvalidKeyLine, X_FORWARDED_FOR};
pub use common::Domain;
pub use components::{Components, Kind};
pub use enforce::{Applied, Enforcer, Judgement, PolicyState};
pub use envelope::{ApiError, ErrorBody, ErrorDetail, FAULT, Reply};
pub use extract::{Json, Path, Query, parse_json};
#[cfg(fuzzing)]
pub use server::fuzzing;
pub use server::{BodyError, BodyLimits, ConnectionCounts, ConnectionLimits, RequestBody, listen};
pub use service::{Definition, Host, Kit, Needs, Running, StartError, start};
pub use settings::Settings;
pub use stack::RequestContext;
pub use upstream::{CallError, Condition, EndpointSnapshot, Upstream};
