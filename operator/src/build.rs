//! The objects that a resource asks for. Pure.

mod policy;

pub use policy::{POLICY_KEY, policy_config_map, policy_name};

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use phase6_crds::Phase6Service;

/// Labels of everything that belongs to a resource.
fn labels(resource: &Phase6Service) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", resource.spec.service.as_str().to_owned()),
        ("app.kubernetes.io/instance", resource.name_any()),
        ("app.kubernetes.io/part-of", "phase6".to_owned()),
        ("app.kubernetes.io/managed-by", "phase6-operator".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Makes an object go when its resource goes. None for a resource that was never stored.
fn owner(resource: &Phase6Service) -> Option<OwnerReference> {
    resource.controller_owner_ref(&())
}
