//! Number of replicas: disruption budget, autoscaler, and the fixed number.

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
            // One at a time, instead of a minimum: a single replica must not block the drain of its node.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(resource)),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    };
    let mut objects = vec![Object::new(Kind::PodDisruptionBudget, budget)];
    objects.extend(resource.spec.autoscaling.as_ref().map(|autoscaling| autoscaler(resource, autoscaling)));
    objects
}

fn autoscaler(resource: &Phase6Service, autoscaling: &Autoscaling) -> Object {
    let cpu = MetricSpec {
        type_: "Resource".into(),
        resource: Some(ResourceMetricSource {
            name: "cpu".into(),
            target: MetricTarget {
                type_: "Utilization".into(),
                average_utilization: Some(autoscaling.target_cpu_percent),
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
                min_replicas: Some(autoscaling.min_replicas),
                max_replicas: autoscaling.max_replicas,
                metrics: Some(vec![cpu]),
                ..HorizontalPodAutoscalerSpec::default()
            }),
            ..HorizontalPodAutoscaler::default()
        },
    )
}

/// Builds the part of the Deployment with the number of replicas, or `None` if an autoscaler sets it.
///
/// This part is applied separately, by another field manager. When autoscaling begins, that manager stops
/// applying, and the number stays until the autoscaler changes it. If the manager of the whole Deployment
/// set the number and then left it out, the field would be removed and the Deployment would fall to one
/// replica.
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
