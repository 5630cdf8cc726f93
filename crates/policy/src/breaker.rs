//! Circuit breaker settings: when a breaker opens, and how it closes again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{Duration, duration_rule};

/// Circuit breaker of each peer endpoint and each provider. Connection errors, timeouts and 5xx responses
/// count as failures. A 429 response does not, and its `Retry-After` is honored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Failure ratio at which the breaker opens: failed calls divided by all calls in the window, from 0.01 to
    /// 1. Default 0.5.
    // API servers round the bounds of an integer value down, so the minimum alone would accept 0.
    #[schemars(range(min = 0.01, max = 1.0), extend("x-kubernetes-validations" = [{
        "rule": "self >= 0.01",
        "message": "must be a number from 0.01 to 1",
    }]))]
    pub failure_ratio: f64,

    /// Minimum number of calls in the window before the failure ratio is evaluated, from 1 to 10000. Default
    /// 10.
    #[schemars(range(min = 1, max = 10_000))]
    pub minimum_calls: i64,

    /// Length of the sliding window in which calls are counted, from 1s to 10m. Default 10s.
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("1s" to "10m")))]
    pub window: Duration,

    /// Time that an open breaker rejects calls before it becomes half-open, from 100ms to 1h. Default 30s.
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("100ms" to "1h")))]
    pub open_for: Duration,

    /// Number of concurrent probe calls that a half-open breaker lets through, from 1 to 100. The breaker
    /// closes when all of them succeed. Default 1.
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
