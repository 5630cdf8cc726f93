//! Who the pods are: an account that may read one `ConfigMap`, their own policy, and where the pods of their
//! peers are; nothing else.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::ResourceExt;
use phase6_crds::Phase6Service;

use super::{Kind, Object, metadata, policy_name};

pub(super) fn build(resource: &Phase6Service) -> Vec<Object> {
    let name = resource.name_any();
    let policy = policy_name(&name);
    let account = ServiceAccount { metadata: metadata(resource, name.clone()), ..ServiceAccount::default() };
    let own_policy = PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["configmaps".into()]),
        resource_names: Some(vec![policy.clone()]),
        // With a name, listing and watching are allowed only of that one object.
        verbs: ["get", "list", "watch"].map(str::to_owned).into(),
        ..PolicyRule::default()
    };
    let peers = PolicyRule {
        api_groups: Some(vec!["discovery.k8s.io".into()]),
        resources: Some(vec!["endpointslices".into()]),
        // Slices have made-up names, so all of the namespace's: addresses of pods, and which are ready.
        verbs: ["list", "watch"].map(str::to_owned).into(),
        ..PolicyRule::default()
    };
    let role = Role { metadata: metadata(resource, policy.clone()), rules: Some(vec![own_policy, peers]) };
    let binding = RoleBinding {
        metadata: metadata(resource, policy.clone()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "Role".into(),
            name: policy,
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
