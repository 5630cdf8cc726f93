//! Service account of the pods and its rights: reading the `ConfigMap` of their own policy and the
//! `EndpointSlice`s of their namespace, and nothing else.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::ResourceExt;
use phase6_crds::Phase6Service;

use super::{Kind, Object, config_map_name, metadata};

pub(super) fn build(resource: &Phase6Service) -> Vec<Object> {
    let name = resource.name_any();
    let config_map = config_map_name(&name);
    let account = ServiceAccount { metadata: metadata(resource, name.clone()), ..ServiceAccount::default() };
    let own_policy = PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["configmaps".into()]),
        resource_names: Some(vec![config_map.clone()]),
        // With a name, a list or a watch is allowed only if it selects that one object.
        verbs: ["get", "list", "watch"].map(str::to_owned).into(),
        ..PolicyRule::default()
    };
    let endpoints = PolicyRule {
        api_groups: Some(vec!["discovery.k8s.io".into()]),
        resources: Some(vec!["endpointslices".into()]),
        // Slices have generated names, so the right covers those of the whole namespace. They hold addresses
        // and readiness of pods.
        verbs: ["list", "watch"].map(str::to_owned).into(),
        ..PolicyRule::default()
    };
    let role =
        Role { metadata: metadata(resource, config_map.clone()), rules: Some(vec![own_policy, endpoints]) };
    let binding = RoleBinding {
        metadata: metadata(resource, config_map.clone()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "Role".into(),
            name: config_map,
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name,
            namespace: resource.namespace(),
            ..Subject::default()
        }]),
    };
    vec![
        Object::new(Kind::ServiceAccount, account),
        Object::new(Kind::Role, role),
        Object::new(Kind::RoleBinding, binding),
    ]
}
