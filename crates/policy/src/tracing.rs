//! Which requests leave a trace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{Duration, duration_rule};

/// Trace sampling. Latency, throughput and error rate count every request, sampled or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Share of requests that leave a trace, from 0 (none) to 1 (all). Default 0.1. The choice is
    /// made by the trace id, so services with the same rate choose the same requests.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sampling_rate: f64,

    /// Aim for at most so many sampled requests per second, from 1 to 100000: under load the
    /// sampling rate falls below `samplingRate` as far as needed. Absent: no such aim.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub target_spans_per_second: Option<i64>,

    /// Keep a trace of every request answered with 5xx, sampled or not. Default true.
    pub keep_errors: bool,

    /// Keep a trace of every request that took longer, from 0s (all of them) to 1h. Default 500ms.
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
