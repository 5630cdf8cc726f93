//! The words of tuning: what a policy may say about one service, with defaults and bounds.
//!
//! Every field's doc comment is what `kubectl explain` shows, so it gives meaning, unit, default
//! and edge. Bounds are part of the JSON schema; rules between fields are CEL, attached to the
//! schema, so that the API server and `phase6 explain` run the same ones.
//!
//! Deserialising fills every default: a [`Policy`] in hand is the effective one. This crate does
//! no I/O, reads no clock and knows nothing of HTTP, Kubernetes or Redis.

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

/// The effective policy of one service: what its layers obey from one moment to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Response cache; absent: nothing is cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// Rate limit; absent: nothing is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,

    /// Trace sampling.
    #[serde(default)]
    pub tracing: Tracing,

    /// Circuit breaker around every peer and provider that the service calls.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
}
