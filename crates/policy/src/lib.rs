//! Policy of a service: settings that can change while it runs, with defaults and bounds.
//!
//! * `kubectl explain` shows the doc comment of each field, so it states meaning, unit, default, bounds and
//!   edge cases.
//! * Bounds are part of the JSON schema. Rules between fields are CEL rules attached to the schema, so the
//!   API server and `phase6 explain` evaluate the same rules.
//! * Deserialization fills in every default: a [`Policy`] value is the effective policy.
//! * This crate does no I/O, reads no clock and does not depend on HTTP, Kubernetes or Redis.

mod breaker;
mod cache;
mod document;
mod duration;
mod ratelimit;
mod tracing;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use breaker::CircuitBreaker;
pub use cache::Cache;
pub use document::PolicyDocument;
pub use duration::{Duration, InvalidDuration};
pub use ratelimit::{BackendFailure, Key, Match, Method, Mode, Override, RateLimit, Scope};
pub use tracing::Tracing;

/// Effective policy of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Response cache. Absent: no response is cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// Rate limit. Absent: no request is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,

    /// Trace sampling.
    #[serde(default)]
    pub tracing: Tracing,

    /// Circuit breaker of every peer and provider that the service calls.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
}
