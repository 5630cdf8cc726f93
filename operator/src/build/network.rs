//! Network objects: `Service`, `NetworkPolicy` and `ServiceMonitor`.

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        networking::v1::{
            NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
            NetworkPolicyPort, NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use phase6_catalog::{SERVICES, Service as CatalogService};
use phase6_crds::Phase6Service;
use serde_json::json;

use super::{BuildOptions, Kind, Object, labels, metadata, selector};

/// Name of the container port and of the Service port.
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

/// Builds the `NetworkPolicy` of the pods.
///
/// Ingress: from anywhere to `web`, and to every service where a Prometheus scrapes them; otherwise from the
/// services that call this one, by the catalog, and the operator. Egress: to the services that it calls, DNS,
/// the API server and the given ports.
pub(super) fn network_policy(resource: &Phase6Service, options: &BuildOptions) -> Object {
    let service = resource.spec.service.service();
    let callers = SERVICES.iter().filter(|other| other.peers().any(|peer| peer == service));
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(selecting(&[("kubernetes.io/metadata.name", &options.operator_namespace)])),
        pod_selector: Some(selecting(&[("app.kubernetes.io/name", "phase6-operator")])),
        ..NetworkPolicyPeer::default()
    };
    let is_open = service.is_gateway() || options.service_monitors;
    let ingress = NetworkPolicyIngressRule {
        // Without a list, connections from anywhere are allowed.
        from: (!is_open).then(|| pods_of(callers).into_iter().chain([operator]).collect()),
        ports: Some(vec![port("TCP", IntOrString::String(PORT.into()))]),
    };
    let to_peers =
        pods_of(service.peers()).map(|peers| NetworkPolicyEgressRule { to: Some(vec![peers]), ports: None });
    let mut ports = vec![port("UDP", IntOrString::Int(53)), port("TCP", IntOrString::Int(53))];
    // Ports of the API server: that of its Service, and the usual one of the server itself.
    let api_server = [443, 6443];
    ports.extend(api_server.map(|number| port("TCP", IntOrString::Int(number.into()))));
    let others = options.egress_ports.iter().filter(|number| !api_server.contains(*number));
    ports.extend(others.map(|&number| port("TCP", IntOrString::Int(number.into()))));
    let to_anywhere = NetworkPolicyEgressRule { to: None, ports: Some(ports) };
    Object::new(
        Kind::NetworkPolicy,
        NetworkPolicy {
            metadata: metadata(resource, resource.name_any()),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(selector(resource)),
                policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
                ingress: Some(vec![ingress]),
                egress: Some(to_peers.into_iter().chain([to_anywhere]).collect()),
            }),
        },
    )
}

/// Builds the `ServiceMonitor`, by which the Prometheus operator configures a scrape of the metrics.
pub(super) fn service_monitor(resource: &Phase6Service, options: &BuildOptions) -> Object {
    let mut metadata = metadata(resource, resource.name_any());
    // The operator's labels take precedence, because it finds its objects by them.
    let own = metadata.labels.take().unwrap_or_default();
    metadata.labels = Some(options.monitor_labels.clone().into_iter().chain(own).collect());
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

/// Returns the pods of these services; `None` if there are no services.
fn pods_of<'a>(services: impl Iterator<Item = &'a CatalogService>) -> Option<NetworkPolicyPeer> {
    let names: Vec<String> = services.map(|service| service.name.to_owned()).collect();
    let is_named = LabelSelectorRequirement {
        key: "app.kubernetes.io/name".into(),
        operator: "In".into(),
        values: Some(names).filter(|names| !names.is_empty()),
    };
    is_named.values.is_some().then(|| NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_expressions: Some(vec![is_named]),
            ..selecting(&[("app.kubernetes.io/part-of", "phase6")])
        }),
        ..NetworkPolicyPeer::default()
    })
}

fn port(protocol: &str, port: IntOrString) -> NetworkPolicyPort {
    NetworkPolicyPort { port: Some(port), protocol: Some(protocol.into()), end_port: None }
}

fn selecting(labels: &[(&str, &str)]) -> LabelSelector {
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    LabelSelector { match_labels: Some(labels.collect()), ..LabelSelector::default() }
}
