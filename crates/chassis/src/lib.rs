//! The chassis of all services: everything but their domain.
//!
//! ```text
//! socket -> accept loop (limits) -> stack of layers -> routes -> handler
//!                                         ^
//!            policy document -> Enforcer -'   one pointer swap, one read per request
//! ```
//!
//! A service is a [`Definition`]: name, port, routes, needs. [`start`] puts everything else around it: the
//! [stack](stack.rs) of layers, health, metrics, description, observability, and a shutdown that loses no
//! request. Handlers respond with [`Reply`] or [`ApiError`], take [`Json`], [`Query`] and [`Path`], and call
//! peers through [`Upstream`].

mod clock;
mod config;
mod enforce;
mod operations;
mod request;
mod server;
mod service;
mod stack;
#[cfg(feature = "testing")]
pub mod testing;
mod upstream;

/// The layers that services use in their own code.
pub use phase6_breaker as breaker;
pub use phase6_cache as cache;
pub use phase6_catalog as catalog;
pub use phase6_events as events;
pub use phase6_identity as identity;
pub use phase6_jobs as jobs;
pub use phase6_store as store;
pub use phase6_telemetry as telemetry;

pub use clock::Clock;
pub use config::{
    Environment, InvalidSetting, InvalidSettings, Setting, SettingKind, Settings, TimeUnit,
    without_credentials,
};
pub use enforce::{ActivePolicy, ApplyOutcome, Enforcer, PolicyState};
pub use operations::{ComponentKind, Components, Domain};
pub use phase6_identity::{Principal, Role};
pub use request::{
    Access, ApiError, Caller, ErrorBody, ErrorDetail, FAULT, Faults, FieldFault, INTERNAL, Idempotency,
    IdempotencyHeader, Idempotent, IfMatch, Json, LastEventId, LastEventIdHeader, Page, PageQuery,
    PageRequest, Path, Query, Reply, X_FORWARDED_FOR, deadline, etag, event_stream, parse_json, require,
    require_in_fleet,
};
#[cfg(fuzzing)]
pub use server::fuzzing;
pub use server::{BodyError, BodyLimits, ConnectionLimits, RequestBody, listen};
pub use service::{Definition, Host, Kit, Needs, Running, StartError, start};
pub use stack::RequestContext;
pub use upstream::{CallError, EndpointHealth, EndpointSnapshot, Upstream};
