//! Type of the `Phase6Service` resource.
//!
//! `kubectl explain` shows the doc comments of the fields. CEL rules at the types state which combinations of
//! fields are valid.

#![allow(clippy::duplicated_attributes, reason = "each printed column has a name and a type")]

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use phase6_catalog::ServiceName;
use phase6_policy::{Cache, CircuitBreaker, Policy, RateLimit, Tracing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Desired state of one service of the fleet: its replicas, and the policy that all of them enforce. A change
/// of the policy restarts no pod; `status.policy` and the condition `PolicyApplied` report when every ready
/// replica enforces it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "phase6.dev",
    version = "v1alpha1",
    kind = "Phase6Service",
    plural = "phase6services",
    shortname = "p6",
    category = "phase6",
    namespaced,
    doc = "One service of the fleet and the policy that all its replicas enforce.",
    status = "Phase6ServiceStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Limit", type_ = "integer", json_path = ".spec.rateLimit.capacity"),
    printcolumn(name = "TTL", type_ = "string", json_path = ".spec.cache.ttl"),
    printcolumn(name = "Sampling", type_ = "number", json_path = ".spec.tracing.samplingRate"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".status.policy.applied"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.replicas) || !has(self.autoscaling)",
    "replicas and autoscaling exclude each other; set at most one of them"
))]
pub struct Phase6ServiceSpec {
    /// Name of the service. Cannot be changed after the resource is created.
    #[x_kube(validation = ("self == oldSelf", "service cannot be changed; create another resource instead"))]
    pub service: ServiceName,

    /// Desired number of replicas, from 0 to 100. Default 1, unless `autoscaling` is set: then this field must
    /// be absent, and the autoscaler sets the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: Option<i32>,

    /// `HorizontalPodAutoscaler` that sets the number of replicas. Absent: no autoscaler is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Container image. Default: the image of the operator, so that an upgrade of the operator upgrades the
    /// service too. A change replaces the pods one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// CPU and memory requests and limits of each replica, as in any pod. A change replaces the pods one after
    /// another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Response cache. RFC 9111 and the `Cache-Control` header of a response determine if the response may be
    /// stored; these settings determine for how long. Absent: no response is cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// Rate limit: one token bucket per key. A request takes one token; a request that finds no token is
    /// rejected with status 429 and a `Retry-After` header. Absent: no request is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,

    /// Trace sampling. Metrics of latency, throughput and errors include every request, sampled or not.
    #[serde(default)]
    pub tracing: Tracing,

    /// Circuit breaker of each peer endpoint and each provider that the service calls. Connection errors,
    /// timeouts and 5xx responses count as failures. A 429 response does not, and its `Retry-After` is honored.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
}

impl Phase6ServiceSpec {
    /// Returns the settings that take effect in running pods.
    pub fn policy(&self) -> Policy {
        Policy {
            cache: self.cache.clone(),
            rate_limit: self.rate_limit.clone(),
            tracing: self.tracing.clone(),
            circuit_breaker: self.circuit_breaker.clone(),
        }
    }
}

/// Bounds and CPU target of the autoscaler.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.minReplicas <= self.maxReplicas",
    "minReplicas must not be greater than maxReplicas"
))]
pub struct Autoscaling {
    /// Minimum number of replicas, from 1 to 100. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: i32,

    /// Maximum number of replicas, from 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,

    /// Target for the mean CPU usage of the replicas, in percent of their CPU request, from 1 to 100. Default
    /// 70.
    #[serde(default = "seventy")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_percent: i32,
}

const fn one() -> i32 {
    1
}

const fn seventy() -> i32 {
    70
}

/// Observed state of the service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase6ServiceStatus {
    /// Generation of the resource that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Number of pods, ready or not.
    #[serde(default)]
    pub replicas: i32,

    /// Number of ready pods.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Label selector of the pods, which the scale subresource reports.
    #[serde(default)]
    pub selector: String,

    /// Newest policy, and the progress of its propagation to the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyStatus>,

    /// Conditions `Ready`, `Reconciling`, `Stalled`, `PolicyApplied` and `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Policy revision, and the progress of its propagation to the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// Newest published revision.
    pub revision: i64,

    /// Generation of the resource that the revision was compiled from.
    pub generation: i64,

    /// Hash of the policy; equal policies have equal hashes.
    pub hash: String,

    /// Number of ready replicas that report that they enforce the revision.
    pub applied_replicas: i32,

    /// Number of ready replicas.
    pub total_replicas: i32,

    /// Number of replicas that a limit of scope Shared is divided among because there is no Redis. 1: the limit
    /// is not divided.
    pub divided_by: i32,

    /// Text `appliedReplicas/totalReplicas`, which `kubectl get` prints.
    pub applied: String,

    /// Time from the publication of the revision until every ready replica enforced it, in milliseconds.
    /// Absent until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_ms: Option<i64>,

    /// Error of a replica that rejects the revision or does not respond to its probe. Absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
