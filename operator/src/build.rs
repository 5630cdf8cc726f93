//! Build stage: the objects of a resource. Pure: resource and options in, objects out.
//!
//! | Object | Built |
//! |---|---|
//! | `ServiceAccount`, `Role`, `RoleBinding` | always; pods may read their policy's `ConfigMap` and the `EndpointSlice`s of their namespace |
//! | `Service`, `Deployment`, `PodDisruptionBudget` | always |
//! | `HorizontalPodAutoscaler` | with `autoscaling` |
//! | `NetworkPolicy` | unless turned off |
//! | `ServiceMonitor` | if the cluster has this kind |
//!
//! The policy's `ConfigMap` is built separately, by [`policy_config_map`], because it depends on the policy
//! that is published already. No other object depends on the policy, so an edit of the policy restarts no
//! pod.

mod access;
mod network;
mod object;
mod options;
mod policy;
mod scaling;
mod workload;

pub use object::{Kind, Object};
pub use options::{BuildOptions, Collector, Endpoint, SecretKey};
pub use policy::{config_map_name, next_document, policy_config_map, read_document};
pub use scaling::replicas;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{Resource, ResourceExt};
use phase6_crds::Phase6Service;

/// Label with the name of the resource that an object or a pod belongs to.
pub const RESOURCE_LABEL: &str = "phase6.dev/resource";
/// Label, as name and value, of every object that the operator makes.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "phase6-operator");

/// Builds every object except the policy's `ConfigMap`, in the order in which they are applied. The number
/// of replicas is left out; [`replicas`] builds it.
pub fn build(resource: &Phase6Service, options: &BuildOptions) -> Vec<Object> {
    let mut objects = access::build(resource);
    objects.push(network::service(resource));
    objects.extend(options.network_policy.then(|| network::network_policy(resource, options)));
    objects.push(workload::deployment(resource, options));
    objects.extend(scaling::build(resource));
    objects.extend(options.service_monitors.then(|| network::service_monitor(resource, options)));
    objects
}

/// Returns the labels of every object of a resource.
fn labels(resource: &Phase6Service) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", resource.spec.service.as_str().to_owned()),
        ("app.kubernetes.io/instance", resource.name_any()),
        ("app.kubernetes.io/part-of", "phase6".to_owned()),
        (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
        (RESOURCE_LABEL, resource.name_any()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Returns the selector of the pods of a resource.
fn selector(resource: &Phase6Service) -> LabelSelector {
    LabelSelector {
        match_labels: Some([(RESOURCE_LABEL.to_owned(), resource.name_any())].into()),
        ..LabelSelector::default()
    }
}

/// Returns the metadata of an object that is deleted with its resource. A resource that was never stored
/// has no uid and owns nothing.
fn metadata(resource: &Phase6Service, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: resource.namespace(),
        labels: Some(labels(resource)),
        owner_references: resource.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test panics")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn options() -> BuildOptions {
        BuildOptions {
            stop_notice: 95,
            image: "registry.example/phase6:1.0.0".into(),
            pull_policy: None,
            pull_secrets: vec!["registry".into()],
            access_secret: "phase6-access".into(),
            database: Some(SecretKey { name: "phase6-database".into(), key: "url".into() }),
            redis: Some(SecretKey { name: "phase6-redis".into(), key: "url".into() }),
            collector: Some(Collector {
                endpoint: "http://collector.monitoring:4317".parse().unwrap(),
                protocol: "grpc".into(),
                headers: Some(SecretKey { name: "collector".into(), key: "headers".into() }),
            }),
            operator_namespace: "phase6-system".into(),
            network_policy: true,
            egress_ports: vec![443, 5432],
            service_monitors: true,
            monitor_labels: [("release".to_owned(), "prometheus".to_owned())].into(),
        }
    }

    fn resource(spec: Value) -> Phase6Service {
        serde_json::from_value(json!({
            "apiVersion": "phase6.dev/v1alpha1",
            "kind": "Phase6Service",
            "metadata": {"name": "budget", "namespace": "learning", "uid": "2b1c", "generation": 3},
            "spec": spec,
        }))
        .unwrap()
    }

    fn bodies(spec: Value, options: &BuildOptions) -> Vec<Value> {
        build(&resource(spec), options).into_iter().map(|object| object.body).collect()
    }

    #[test]
    fn builds_every_object_of_a_service_with_fixed_replicas() {
        insta::assert_yaml_snapshot!(bodies(json!({"service": "budget", "replicas": 3}), &options()));
    }

    #[test]
    fn builds_an_autoscaled_service_with_its_own_image() {
        let spec = json!({
            // Its peers do not change with the catalog, unlike those of the gateway.
            "service": "coach",
            "image": "registry.example/other:2",
            "autoscaling": {"minReplicas": 2, "maxReplicas": 5},
            "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "1Gi"}},
        });
        let mut options = options();
        options.database = None;
        options.redis = None;
        options.collector = None;
        options.pull_secrets = vec![];
        options.service_monitors = false;
        insta::assert_yaml_snapshot!(bodies(spec, &options));
    }

    #[test]
    fn no_object_but_the_config_map_depends_on_the_policy() {
        let untuned = bodies(json!({"service": "budget"}), &options());
        let tuned = json!({
            "service": "budget",
            "cache": {"ttl": "5s"},
            "rateLimit": {"capacity": 7, "refillPerSecond": 1},
            "tracing": {"samplingRate": 1.0},
            "circuitBreaker": {"openFor": "1s"},
        });
        assert_eq!(bodies(tuned, &options()), untuned);
    }

    #[test]
    fn names_are_unique_within_a_kind_and_every_object_carries_the_managed_by_label() {
        let objects = build(&resource(json!({"service": "budget"})), &options());
        let mut names: Vec<_> = objects.iter().map(|object| (object.kind, &object.name)).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), objects.len());
        assert!(objects.iter().all(|object| object.body["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1));
    }
}
