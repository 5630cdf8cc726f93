//! How pods are reached, and what they may reach.

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        networking::v1::{
            NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
            NetworkPolicyPort, NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::ResourceExt;
use phase6_crds::Phase6Service;
use serde_json::json;

use super::{Context, Kind, Object, labels, metadata, selector};

/// The name of the one port.
pub(super) const PORT: &str = "http";

pub(super) fn service(resource: &Phase6Service) -> Object {
    let port = ServicePort {
        name: Some(PORT.into()),
        port: resource.spec.service.service().port.into(),
        target_port: Some(IntOrString::String(PORT.into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    Object::new(
        Kind::Service,
        Service {
            metadata: metadata(resource, resource.name_any()),
            spec: Some(ServiceSpec {
                selector: selector(resource).match_labels,
                ports: Some(vec![port]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        },
    )
}

/// The gateway is for everybody, the others for the fleet and the operator; everybody may ask for
/// metrics where a monitor does. Out go peers, DNS, the API server and the given ports.
pub(super) fn policy(resource: &Phase6Service, context: &Context) -> Object {
    let fleet = NetworkPolicyPeer {
        pod_selector: Some(labelled(&[("app.kubernetes.io/part-of", "phase6")])),
        ..NetworkPolicyPeer::default()
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled(&[("kubernetes.io/metadata.name", &context.operator_namespace)])),
        pod_selector: Some(labelled(&[("app.kubernetes.io/name", "phase6-operator")])),
        ..NetworkPolicyPeer::default()
    };
    let open = resource.spec.service.service().is_gateway() || context.monitors;
    let ingress = NetworkPolicyIngressRule {
        // No list: from anywhere.
        from: (!open).then(|| vec![fleet.clone(), operator]),
        ports: Some(vec![port("TCP", IntOrString::String(PORT.into()))]),
    };
    let to_peers = NetworkPolicyEgressRule { to: Some(vec![fleet]), ports: None };
    let mut ports = vec![port("UDP", IntOrString::Int(53)), port("TCP", IntOrString::Int(53))];
    // The API server, at its Service and behind it.
    ports.extend([443, 6443].map(|number| port("TCP", IntOrString::Int(number))));
    let more = context.egress_ports.iter().filter(|number| ![443, 6443].contains(*number));
    ports.extend(more.map(|&number| port("TCP", IntOrString::Int(number.into()))));
    let to_anywhere = NetworkPolicyEgressRule { to: None, ports: Some(ports) };
    Object::new(
        Kind::NetworkPolicy,
        NetworkPolicy {
            metadata: metadata(resource, resource.name_any()),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(selector(resource)),
                policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
                ingress: Some(vec![ingress]),
                egress: Some(vec![to_peers, to_anywhere]),
            }),
        },
    )
}

/// Asks Prometheus' operator to collect the metrics.
pub(super) fn monitor(resource: &Phase6Service, context: &Context) -> Object {
    let mut metadata = metadata(resource, resource.name_any());
    // Ours win: by them the object is known.
    let ours = metadata.labels.take().unwrap_or_default();
    metadata.labels = Some(context.monitor_labels.clone().into_iter().chain(ours).collect());
    Object::new(
        Kind::ServiceMonitor,
        json!({
            "metadata": metadata,
            "spec": {
                "selector": { "matchLabels": labels(resource) },
                "endpoints": [{ "port": PORT, "path": "/metrics" }],
            },
        }),
    )
}

fn port(protocol: &str, port: IntOrString) -> NetworkPolicyPort {
    NetworkPolicyPort { port: Some(port), protocol: Some(protocol.into()), end_port: None }
}

fn labelled(labels: &[(&str, &str)]) -> LabelSelector {
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    LabelSelector { match_labels: Some(labels.collect()), ..LabelSelector::default() }
}
