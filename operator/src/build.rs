//! The objects that a resource asks for. Pure: resource and settings in, objects out.
//!
//! | Object | When |
//! |---|---|
//! | `ServiceAccount`, `Role`, `RoleBinding` | always; they let the pods read one `ConfigMap`, their policy, and where their peers' pods are |
//! | `Service`, `Deployment`, `PodDisruptionBudget` | always |
//! | `HorizontalPodAutoscaler` | with `autoscaling` |
//! | `NetworkPolicy` | unless it is turned off |
//! | `ServiceMonitor` | if the cluster knows that kind |
//!
//! The policy's `ConfigMap` is built apart, by [`policy_config_map`], because it depends on what is
//! published already. Nothing built here depends on the policy: that is why a retune restarts no pod.

mod access;
mod network;
mod object;
mod policy;
mod scaling;
mod workload;

pub use object::{Kind, Object};
pub use policy::{policy_config_map, policy_document, policy_name, published};
pub use scaling::replicas;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use phase6_crds::Phase6Service;

/// The label by which the pods of a resource are found.
pub const RESOURCE_LABEL: &str = "phase6.dev/resource";
/// The label of everything that the operator makes, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "phase6-operator");

/// What is the same for all resources.
#[derive(Clone, Debug)]
pub struct Context {
    /// The image of resources that name none.
    pub image: String,
    /// When nodes fetch it, in the words of a pod; none: Kubernetes' default.
    pub pull_policy: Option<String>,
    /// Secrets that let nodes fetch it.
    pub pull_secrets: Vec<String>,
    /// Secret with the API keys that services accept and the token that they share.
    pub access_secret: String,
    /// Secret and key of the database's URL; none: each pod has a file of its own.
    pub database: Option<SecretKey>,
    /// Secret and key of the URL of the Redis that replicas share limits through; none: limits are divided.
    pub redis: Option<SecretKey>,
    /// The collector that pods send their spans to, if any.
    pub collector: Option<Collector>,
    /// Where the operator runs, which must reach the pods.
    pub operator_namespace: String,
    /// Whether pods accept connections only from those that need them.
    pub network_policy: bool,
    /// Ports that pods may connect to beside their peers, DNS and the API server.
    pub egress_ports: Vec<u16>,
    /// Whether the cluster knows `ServiceMonitor`.
    pub monitors: bool,
    /// What a Prometheus selects monitors by.
    pub monitor_labels: BTreeMap<String, String>,
}

/// One value of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// The Secret's name, in the namespace of the resource.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// An OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How spans are sent, in OpenTelemetry's words.
    pub protocol: String,
    /// What it wants to see who sends: `NAME=VALUE`, separated by commas.
    pub headers: Option<SecretKey>,
}

/// An address for HTTP or gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub url: String,
    /// The port in it, or what stands for none.
    pub port: u16,
}

/// Everything but the policy and the number of replicas, in the order in which it is applied.
pub fn build(resource: &Phase6Service, context: &Context) -> Vec<Object> {
    let mut objects = access::build(resource);
    objects.push(network::service(resource));
    objects.extend(context.network_policy.then(|| network::policy(resource, context)));
    objects.push(workload::deployment(resource, context));
    objects.extend(scaling::build(resource));
    objects.extend(context.monitors.then(|| network::monitor(resource, context)));
    objects
}

/// Labels of everything that belongs to a resource.
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

/// What selects the pods of a resource.
fn selector(resource: &Phase6Service) -> LabelSelector {
    LabelSelector {
        match_labels: Some([(RESOURCE_LABEL.to_owned(), resource.name_any())].into()),
        ..LabelSelector::default()
    }
}

/// Metadata of an object of this name that goes when its resource goes.
fn metadata(resource: &Phase6Service, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: resource.namespace(),
        labels: Some(labels(resource)),
        owner_references: owner(resource).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Makes an object go when its resource goes. None for a resource that was never stored.
fn owner(resource: &Phase6Service) -> Option<OwnerReference> {
    resource.controller_owner_ref(&())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn context() -> Context {
        Context {
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
            monitors: true,
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

    fn bodies(spec: Value, context: &Context) -> Vec<Value> {
        build(&resource(spec), context).into_iter().map(|object| object.body).collect()
    }

    #[test]
    fn every_object_of_a_service_with_a_fixed_number_of_replicas() {
        insta::assert_yaml_snapshot!(bodies(json!({"service": "budget", "replicas": 3}), &context()));
    }

    #[test]
    fn what_differs_with_autoscaling_and_an_image_of_its_own() {
        let spec = json!({
            "service": "web",
            "image": "registry.example/other:2",
            "autoscaling": {"minReplicas": 2, "maxReplicas": 5},
            "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "1Gi"}},
        });
        let mut context = context();
        context.database = None;
        context.redis = None;
        context.collector = None;
        context.pull_secrets = vec![];
        context.monitors = false;
        insta::assert_yaml_snapshot!(bodies(spec, &context));
    }

    #[test]
    fn nothing_but_the_policy_depends_on_the_policy() {
        let plain = bodies(json!({"service": "budget"}), &context());
        let tuned = json!({
            "service": "budget",
            "cache": {"ttl": "5s"},
            "rateLimit": {"capacity": 7, "refillPerSecond": 1},
            "tracing": {"samplingRate": 1.0},
            "circuitBreaker": {"openFor": "1s"},
        });
        assert_eq!(bodies(tuned, &context()), plain);
    }

    #[test]
    fn names_are_unique_within_a_kind_and_all_have_the_label_they_are_found_by() {
        let objects = build(&resource(json!({"service": "budget"})), &context());
        let mut names: Vec<_> = objects.iter().map(|object| (object.kind, &object.name)).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), objects.len());
        assert!(objects.iter().all(|object| object.body["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1));
    }
}
