//! How many pods there are, and how few there may be.

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
            MetricTarget, ResourceMetricSource,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use phase6_crds::{Autoscaling, Phase6Service};
use serde_json::{Value, json};

use super::{Kind, Object, metadata, selector};

pub(super) fn build(resource: &Phase6Service) -> Vec<Object> {
    let budget = PodDisruptionBudget {
        metadata: metadata(resource, resource.name_any()),
        spec: Some(PodDisruptionBudgetSpec {
            // One after another, so that a single replica does not keep a node from being drained.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(resource)),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    };
    let mut objects = vec![Object::new(Kind::PodDisruptionBudget, budget)];
    objects.extend(resource.spec.autoscaling.as_ref().map(|wanted| autoscaler(resource, wanted)));
    objects
}

fn autoscaler(resource: &Phase6Service, wanted: &Autoscaling) -> Object {
    let cpu = MetricSpec {
        type_: "Resource".into(),
        resource: Some(ResourceMetricSource {
            name: "cpu".into(),
            target: MetricTarget {
                type_: "Utilization".into(),
                average_utilization: Some(wanted.target_cpu_percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    };
    Object::new(
        Kind::HorizontalPodAutoscaler,
        HorizontalPodAutoscaler {
            metadata: metadata(resource, resource.name_any()),
            spec: Some(HorizontalPodAutoscalerSpec {
                scale_target_ref: CrossVersionObjectReference {
                    api_version: Some("apps/v1".into()),
                    kind: "Deployment".into(),
                    name: resource.name_any(),
                },
                min_replicas: Some(wanted.min_replicas),
                max_replicas: wanted.max_replicas,
                metrics: Some(vec![cpu]),
                ..HorizontalPodAutoscalerSpec::default()
            }),
            ..HorizontalPodAutoscaler::default()
        },
    )
}

/// The number of replicas as a part of the Deployment that is applied by itself; none when the
/// autoscaler decides.
///
/// It has a field manager of its own. When autoscaling begins, that manager only stops speaking: the
/// number it last said stays until the autoscaler says another. A manager that leaves out a field
/// it had would take the field away, and the Deployment would fall to one replica.
pub fn replicas(resource: &Phase6Service) -> Option<Value> {
    if resource.spec.autoscaling.is_some() {
        return None;
    }
    Some(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": resource.name_any(), "namespace": resource.namespace() },
        "spec": { "replicas": resource.spec.replicas.unwrap_or(1) },
    }))
}
