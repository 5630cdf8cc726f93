//! Addresses of the pods behind peers: the `EndpointSlice`s of their Services, watched.
//!
//! A Service balances connections, and callers keep connections open: a new pod would wait for its share,
//! and a terminating one would still be called. With the addresses of pods a new pod gets its share as soon
//! as it is ready, and a terminating pod gets no further request.
//!
//! The address of the Service stays in use until the first list was read completely, and wherever a
//! Service has no slice. While the API server does not respond, the last list stays.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use futures_util::StreamExt;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{
    Client,
    runtime::watcher::{Config, Event},
};
use phase6_catalog::Service;
use phase6_live::Live;

use super::watch;
use crate::serve::peers::Peers;

/// Label of a slice with the name of its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Name of the port that peers call, if a Service has several.
const PORT_NAME: &str = "http";

/// The Service of a peer.
pub(super) struct PeerService {
    name: String,
    /// Configured address, used while no pod is known.
    configured: Vec<String>,
    addresses: Live<Vec<String>>,
}

/// Returns the peers of `service` that are Services of this namespace: their address is one bare name.
pub(super) fn services(service: &Service, peers: &Peers) -> Vec<PeerService> {
    let peer_service = |peer: &'static Service| {
        let addresses = peers.get(peer.name)?.clone();
        let configured = addresses.get().to_vec();
        let [only] = &configured[..] else { return None };
        let (name, _) = only.rsplit_once(':')?;
        let is_bare = !name.contains(['.', ':']);
        is_bare.then(|| PeerService { name: name.to_owned(), configured: configured.clone(), addresses })
    };
    service.peers().filter_map(peer_service).collect()
}

/// Keeps the addresses of these peers up to date until cancelled.
pub(super) async fn follow(client: Client, services: Vec<PeerService>) {
    if services.is_empty() {
        return;
    }
    let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
    let selection = Config::default().labels(&format!("{SERVICE_LABEL} in ({})", names.join(",")));
    let mut events = watch::<EndpointSlice>(client, selection);
    // By the name of the slice. A new list counts once it is complete.
    let (mut known, mut listed) = (HashMap::new(), HashMap::new());
    let mut is_watching = true;
    while let Some(event) = events.next().await {
        if let Err(error) = &event
            && is_watching
        {
            tracing::warn!(%error, "failed to watch EndpointSlices; the last known addresses stay in use");
        }
        is_watching = event.is_ok();
        match event {
            Ok(Event::Init) => listed = HashMap::new(),
            Ok(Event::InitApply(slice)) => insert(&mut listed, slice),
            Ok(Event::InitDone) => known = std::mem::take(&mut listed),
            Ok(Event::Apply(slice)) => insert(&mut known, slice),
            Ok(Event::Delete(slice)) => {
                known.remove(&slice.metadata.name.unwrap_or_default());
            }
            Err(_) => {}
        }
        for service in &services {
            service.update(known.values());
        }
    }
}

fn insert(slices: &mut HashMap<String, Slice>, slice: EndpointSlice) {
    if let Some((name, slice)) = Slice::read(slice) {
        slices.insert(name, slice);
    }
}

impl PeerService {
    fn update<'a>(&self, slices: impl Iterator<Item = &'a Slice>) {
        let own: Vec<&Slice> = slices.filter(|slice| slice.service == self.name).collect();
        let now = if own.is_empty() { self.configured.clone() } else { addresses(&own) };
        if **self.addresses.load() != now {
            tracing::info!(service = self.name, endpoints = now.len(), "endpoints of the peer changed");
            self.addresses.set(now);
        }
    }
}

/// The parts of an `EndpointSlice` that balancing needs.
struct Slice {
    service: String,
    pods: Vec<Pod>,
}

struct Pod {
    address: SocketAddr,
    /// True if it accepts requests and is not terminating.
    ready: bool,
    /// True if it is terminating and still accepts requests.
    terminating: bool,
}

impl Slice {
    /// Returns the name and the parts; `None` if it belongs to no Service or has no addresses of pods.
    fn read(slice: EndpointSlice) -> Option<(String, Self)> {
        let service = slice.metadata.labels?.remove(SERVICE_LABEL)?;
        if slice.address_type == "FQDN" {
            return None;
        }
        let ports = slice.ports.unwrap_or_default();
        let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT_NAME));
        let only = ports.first().filter(|_| ports.len() == 1);
        // A Service without pods has a slice without ports.
        let port = named.or(only).and_then(|port| u16::try_from(port.port?).ok());
        let pods = slice.endpoints.iter().filter_map(|endpoint| Pod::read(endpoint, port?)).collect();
        Some((slice.metadata.name?, Self { service, pods }))
    }
}

impl Pod {
    fn read(endpoint: &Endpoint, port: u16) -> Option<Self> {
        // All addresses of one endpoint belong to the same pod.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // Conditions that are absent have their usual value: ready and serving.
        let terminating = conditions.terminating == Some(true);
        let serving = conditions.serving.or(conditions.ready) != Some(false);
        Some(Self {
            address: SocketAddr::new(address, port),
            ready: !terminating && conditions.ready != Some(false),
            terminating: terminating && serving,
        })
    }
}

/// Returns the addresses of a Service's ready pods. If none is ready, those of the terminating pods that
/// still accept requests, as kube-proxy does.
fn addresses(slices: &[&Slice]) -> Vec<String> {
    let select = |is_selected: fn(&Pod) -> bool| -> BTreeSet<SocketAddr> {
        let pods = slices.iter().flat_map(|slice| &slice.pods).filter(|pod| is_selected(pod));
        pods.map(|pod| pod.address).collect()
    };
    let mut all = select(|pod| pod.ready);
    if all.is_empty() {
        all = select(|pod| pod.terminating);
    }
    // A dual-stack pod is in slices of both families, and counts once.
    if all.iter().any(SocketAddr::is_ipv4) {
        all.retain(SocketAddr::is_ipv4);
    }
    all.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, endpoints: Value) -> Slice {
        let kind = if name.contains("v6") { "IPv6" } else { "IPv4" };
        let slice = json!({
            "metadata": {"name": name, "labels": {(SERVICE_LABEL): "budget"}}, "addressType": kind,
            "ports": [{"name": "http", "port": 3003}, {"name": "other", "port": 9}], "endpoints": endpoints,
        });
        Slice::read(serde_json::from_value(slice).unwrap()).unwrap().1
    }

    fn at(address: &str, conditions: Value) -> Value {
        json!({"addresses": [address], "conditions": conditions})
    }

    #[test]
    fn ready_pods_that_are_not_terminating_are_called() {
        let slices = [
            slice(
                "a",
                json!([
                    at("10.0.0.1", json!({"ready": true})),
                    at("10.0.0.2", json!({"ready": false})),
                    at("10.0.0.3", json!({"ready": true, "terminating": true})),
                    at("10.0.0.4", json!({})),
                    {"addresses": ["10.0.0.5"]},
                    at("no address", json!({"ready": true})),
                ]),
            ),
            // In two slices while the controller moves it.
            slice("b", json!([at("10.0.0.1", json!({"ready": true}))])),
            slice("c", Value::Null),
        ];
        let slices: Vec<&Slice> = slices.iter().collect();
        assert_eq!(addresses(&slices), ["10.0.0.1:3003", "10.0.0.4:3003", "10.0.0.5:3003"]);
        assert_eq!(addresses(&slices[2..]), Vec::<String>::new());
    }

    #[test]
    fn terminating_pods_are_called_only_if_no_other_is_ready() {
        let terminating = |serving| json!({"ready": false, "serving": serving, "terminating": true});
        let slice =
            slice("a", json!([at("10.0.0.1", terminating(true)), at("10.0.0.2", terminating(false))]));
        assert_eq!(addresses(&[&slice]), ["10.0.0.1:3003"]);
    }

    #[test]
    fn a_dual_stack_pod_counts_once() {
        let (four, six) =
            (slice("v4", json!([at("10.0.0.1", json!({}))])), slice("v6", json!([at("fd00::1", json!({}))])));
        assert_eq!(addresses(&[&four, &six]), ["10.0.0.1:3003"]);
        assert_eq!(addresses(&[&six]), ["[fd00::1]:3003"]);
    }

    #[test]
    fn only_peers_configured_by_a_bare_name_are_followed() {
        let peers: HashMap<_, _> = [
            ("budget", vec!["budget:3003"]),
            ("coach", vec!["coach.other:3004"]),
            ("meta", vec!["10.0.0.1:3002"]),
            ("reports", vec!["[fd00::1]:3008"]),
            ("training", vec!["a:3001", "b:3001"]),
        ]
        .map(|(name, at)| (name.to_owned(), Live::new(at.into_iter().map(str::to_owned).collect())))
        .into();
        let names: Vec<_> =
            services(Service::named("web"), &peers).into_iter().map(|service| service.name).collect();
        assert_eq!(names, ["budget"]);
    }
}
