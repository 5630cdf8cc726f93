//! Desired objects, of any kind that the operator makes.

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    api::{ApiResource, GroupVersionKind},
    core::Resource,
};
use serde::Serialize;
use serde_json::Value;

/// Kinds of objects that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each variant is the kind of its name")]
pub enum Kind {
    ConfigMap,
    Deployment,
    HorizontalPodAutoscaler,
    NetworkPolicy,
    PodDisruptionBudget,
    Role,
    RoleBinding,
    Service,
    ServiceAccount,
    ServiceMonitor,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::ConfigMap,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::Role,
        Self::RoleBinding,
        Self::Service,
        Self::ServiceAccount,
        Self::ServiceMonitor,
    ];

    /// Returns group, version and names of the kind in the API.
    pub fn api(self) -> ApiResource {
        fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        match self {
            Self::ConfigMap => of::<ConfigMap>(),
            Self::Deployment => of::<Deployment>(),
            Self::HorizontalPodAutoscaler => of::<HorizontalPodAutoscaler>(),
            Self::NetworkPolicy => of::<NetworkPolicy>(),
            Self::PodDisruptionBudget => of::<PodDisruptionBudget>(),
            Self::Role => of::<Role>(),
            Self::RoleBinding => of::<RoleBinding>(),
            Self::Service => of::<Service>(),
            Self::ServiceAccount => of::<ServiceAccount>(),
            Self::ServiceMonitor => ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk("monitoring.coreos.com", "v1", "ServiceMonitor"),
                "servicemonitors",
            ),
        }
    }

    /// Returns the field manager that applies objects of this kind. A manager gives up the fields that it
    /// leaves out, so no two calls with different fields of one object share a manager.
    pub fn manager(self) -> &'static str {
        match self {
            Self::ConfigMap => "phase6-operator/policy",
            Self::Deployment => "phase6-operator/deployment",
            Self::HorizontalPodAutoscaler => "phase6-operator/autoscaler",
            Self::NetworkPolicy => "phase6-operator/network-policy",
            Self::PodDisruptionBudget => "phase6-operator/disruption-budget",
            Self::Role | Self::RoleBinding | Self::ServiceAccount => "phase6-operator/access",
            Self::Service => "phase6-operator/service",
            Self::ServiceMonitor => "phase6-operator/service-monitor",
        }
    }
}

/// Desired object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Kind of the object.
    pub kind: Kind,
    /// Name of the object, in the namespace of its resource.
    pub name: String,
    /// Every field that the operator sets, including `apiVersion` and `kind`.
    pub body: Value,
}

impl Object {
    /// Creates an object from a typed one, or from JSON where there is no type.
    pub(super) fn new(kind: Kind, content: impl Serialize) -> Self {
        let mut body = serde_json::to_value(content).expect("objects of the API serialize to JSON");
        let api = kind.api();
        body["apiVersion"] = api.api_version.into();
        body["kind"] = api.kind.into();
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Self { kind, name, body }
    }
}
