//! The type of the `Phase6Service` resource.
//!
//! Doc comments of fields are what `kubectl explain` shows. Which fields may be combined is said
//! in CEL beside them.

#![allow(clippy::duplicated_attributes, reason = "every printed column has a name and a type")]

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use phase6_catalog::ServiceName;
use phase6_policy::{Cache, CircuitBreaker, Policy, RateLimit, Tracing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of the eight services, how many replicas of it run, and the policy that all of them
/// enforce. Changing the policy never restarts a pod; `status.policy` and the condition
/// `PolicyApplied` say when every ready replica enforces the change.
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
    "replicas and autoscaling exclude each other: give one of them"
))]
pub struct Phase6ServiceSpec {
    /// Which of the eight services this is. Cannot be changed later.
    #[x_kube(validation = ("self == oldSelf", "service cannot be changed: create another resource instead"))]
    pub service: ServiceName,

    /// How many replicas run, from 0 to 100; absent together with `autoscaling`: 1. Must be absent
    /// when `autoscaling` is set: the operator then leaves the number alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: Option<i32>,

    /// Let a `HorizontalPodAutoscaler` choose the number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Container image; absent: the operator's own, so that both upgrade together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// CPU and memory of a replica, as in any pod. A change restarts the pods one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

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

impl Phase6ServiceSpec {
    /// The part that can change while the service runs.
    pub fn policy(&self) -> Policy {
        Policy {
            cache: self.cache.clone(),
            rate_limit: self.rate_limit.clone(),
            tracing: self.tracing.clone(),
            circuit_breaker: self.circuit_breaker.clone(),
        }
    }
}

/// Bounds and aim of the autoscaler.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.minReplicas <= self.maxReplicas",
    "minReplicas must not be greater than maxReplicas"
))]
pub struct Autoscaling {
    /// Fewest replicas, from 1 to 100. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: i32,

    /// Most replicas, from 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,

    /// Mean CPU use of the replicas to aim for, in percent of their request, from 1 to 100.
    /// Default 70.
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

/// What is known of the service now.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase6ServiceStatus {
    /// The generation of the resource that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Label selector of the pods, for the scale subresource.
    #[serde(default)]
    pub selector: String,

    /// How far the newest policy has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyStatus>,

    /// Ready, Reconciling, Stalled, `PolicyApplied` and Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How far a revision of the policy has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// The published revision.
    pub revision: i64,

    /// The resource's generation that it was compiled from.
    pub generation: i64,

    /// Fingerprint of the policy.
    pub hash: String,

    /// Ready replicas that say that they enforce it.
    pub applied_replicas: i32,

    /// Ready replicas.
    pub total_replicas: i32,

    /// Among how many replicas a shared limit is divided, because they have no state in common; 1:
    /// it is not divided.
    pub divided_by: i32,

    /// `appliedReplicas/totalReplicas`, for the printed table.
    pub applied: String,

    /// Milliseconds from publishing until every ready replica enforced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_ms: Option<i64>,

    /// Why a replica refuses the policy, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
