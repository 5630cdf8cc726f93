//! When a service stops calling a peer that fails, and how it finds out that the peer is back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{Duration, duration_rule};

/// Circuit breaker around each peer endpoint and each provider. Failures are connection errors,
/// time-outs and 5xx answers; a 429 is not a failure, its `Retry-After` is honoured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Share of failed calls in the window at which the breaker opens, from 0.01 to 1. Default
    /// 0.5.
    // API servers round a bound of a whole number down: 0 would pass the minimum.
    #[schemars(range(min = 0.01, max = 1.0), extend("x-kubernetes-validations" = [{
        "rule": "self >= 0.01",
        "message": "must be a number from 0.01 to 1",
    }]))]
    pub failure_ratio: f64,

    /// Calls that must lie in the window before the ratio counts, from 1 to 10000. Default 10.
    #[schemars(range(min = 1, max = 10_000))]
    pub minimum_calls: i64,

    /// Length of the sliding window over which calls are counted, from 1s to 10m. Default 10s.
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("1s" to "10m")))]
    pub window: Duration,

    /// How long an open breaker refuses before it tries again, from 100ms to 1h. Default 30s.
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("100ms" to "1h")))]
    pub open_for: Duration,

    /// How many calls a half-open breaker lets through at once to find out, from 1 to 100. All of
    /// them must succeed for it to close. Default 1.
    #[schemars(range(min = 1, max = 100))]
    pub half_open_probes: i64,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            minimum_calls: 10,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(30),
            half_open_probes: 1,
        }
    }
}
