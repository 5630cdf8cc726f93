//! Trace sampling settings: which requests record a trace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{Duration, duration_rule};

/// Trace sampling. Metrics of latency, throughput and errors include every request, sampled or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Share of requests that are sampled, from 0 (none) to 1 (all). Default 0.1. The trace ID decides, so
    /// services with equal rates sample the same requests.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sampling_rate: f64,

    /// Target for the maximum number of sampled requests per second, from 1 to 100000. Under load the
    /// effective sampling rate falls below `samplingRate` to meet it. Absent: no target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub target_spans_per_second: Option<i64>,

    /// Record a trace of every request with a 5xx response, sampled or not. Default true.
    pub keep_errors: bool,

    /// Duration above which every request records a trace, sampled or not, from 0s (all requests) to 1h.
    /// Default 500ms.
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("0s" to "1h")))]
    pub keep_slower_than: Duration,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            sampling_rate: 0.1,
            target_spans_per_second: None,
            keep_errors: true,
            keep_slower_than: Duration::from_millis(500),
        }
    }
}
