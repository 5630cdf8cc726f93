//! Where the pods of peers are, as the API server has it: the `EndpointSlice`s of their Services, watched.
//!
//! A Service spreads connections, and callers keep theirs: a pod that is new would wait for its share, and
//! one that leaves would go on being asked. Called pod by pod, a peer's new pod gets its share when it is
//! ready, and no more requests from the moment at which it is to stop.
//!
//! The Service's name goes on serving until a list was read whole, and wherever there is no slice for it.
//! When the API server cannot be asked any more, the last list stays.

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
use phase6_chassis::Definition;
use phase6_live::Live;

use super::cluster::watch;

/// The label that names a slice's Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The port of a pod that peers call, if its Service has several.
const PORT: &str = "http";

/// The Service of a peer, and where its addresses are told.
pub(super) struct PeerService {
    name: String,
    /// The address that was given, which serves where nothing is known of pods.
    given: Vec<String>,
    addresses: Live<Vec<String>>,
}

/// The peers of a service that are Services of this namespace: given by one bare name.
pub(super) fn services(
    definition: &Definition,
    peers: &HashMap<String, Live<Vec<String>>>,
) -> Vec<PeerService> {
    let of = |peer: &&'static str| {
        let addresses = peers.get(*peer)?.clone();
        let given = addresses.get().to_vec();
        let [only] = &given[..] else { return None };
        let (name, _) = only.rsplit_once(':')?;
        let is_bare = !name.contains(['.', ':']);
        is_bare.then(|| PeerService { name: name.to_owned(), given: given.clone(), addresses })
    };
    definition.needs.peers.iter().filter_map(of).collect()
}

/// Tells where the pods of these Services are, for ever.
pub(super) async fn follow(client: Client, services: Vec<PeerService>) {
    if services.is_empty() {
        return;
    }
    let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
    let only = Config::default().labels(&format!("{SERVICE} in ({})", names.join(",")));
    let mut changes = watch::<EndpointSlice>(client, only);
    // By the names of slices; what is being listed counts when the list is whole.
    let (mut known, mut listed) = (HashMap::new(), HashMap::new());
    let mut in_touch = true;
    while let Some(event) = changes.next().await {
        if let Err(error) = &event
            && in_touch
        {
            tracing::warn!(%error, "endpoint slices cannot be watched; peers are called where they were last");
        }
        in_touch = event.is_ok();
        match event {
            Ok(Event::Init) => listed = HashMap::new(),
            Ok(Event::InitApply(slice)) => keep(&mut listed, slice),
            Ok(Event::InitDone) => known = std::mem::take(&mut listed),
            Ok(Event::Apply(slice)) => keep(&mut known, slice),
            Ok(Event::Delete(slice)) => {
                known.remove(&slice.metadata.name.unwrap_or_default());
            }
            Err(_) => {}
        }
        for service in &services {
            service.tell(known.values());
        }
    }
}

fn keep(slices: &mut HashMap<String, Slice>, slice: EndpointSlice) {
    if let Some((name, slice)) = Slice::read(slice) {
        slices.insert(name, slice);
    }
}

impl PeerService {
    fn tell<'a>(&self, slices: impl Iterator<Item = &'a Slice>) {
        let own: Vec<&Slice> = slices.filter(|slice| slice.service == self.name).collect();
        let now = if own.is_empty() { self.given.clone() } else { addresses(&own) };
        if **self.addresses.load() != now {
            tracing::info!(service = self.name, endpoints = now.len(), "peer's endpoints changed");
            self.addresses.set(now);
        }
    }
}

/// What matters of an `EndpointSlice`.
struct Slice {
    service: String,
    pods: Vec<Pod>,
}

struct Pod {
    address: SocketAddr,
    /// It takes requests and stays.
    ready: bool,
    /// It still takes requests, but is to stop.
    leaving: bool,
}

impl Slice {
    /// None: it belongs to no Service, or has no addresses of pods.
    fn read(slice: EndpointSlice) -> Option<(String, Self)> {
        let service = slice.metadata.labels?.remove(SERVICE)?;
        if slice.address_type == "FQDN" {
            return None;
        }
        let ports = slice.ports.unwrap_or_default();
        let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT));
        let only = ports.first().filter(|_| ports.len() == 1);
        // A Service without pods has a slice without ports.
        let port = named.or(only).and_then(|port| u16::try_from(port.port?).ok());
        let pods = slice.endpoints.iter().filter_map(|endpoint| Pod::read(endpoint, port?)).collect();
        Some((slice.metadata.name?, Self { service, pods }))
    }
}

impl Pod {
    fn read(endpoint: &Endpoint, port: u16) -> Option<Self> {
        // All addresses of one endpoint lead to the same pod.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // What is not said is as it usually is.
        let leaving = conditions.terminating == Some(true);
        let serving = conditions.serving.or(conditions.ready) != Some(false);
        Some(Self {
            address: SocketAddr::new(address, port),
            ready: !leaving && conditions.ready != Some(false),
            leaving: leaving && serving,
        })
    }
}

/// The addresses of a Service's pods: of those that are ready or, as the cluster's own proxy has it too, of
/// those that leave and still answer, if there is no other.
fn addresses(slices: &[&Slice]) -> Vec<String> {
    let of = |wanted: fn(&Pod) -> bool| -> BTreeSet<SocketAddr> {
        let pods = slices.iter().flat_map(|slice| &slice.pods).filter(|pod| wanted(pod));
        pods.map(|pod| pod.address).collect()
    };
    let mut all = of(|pod| pod.ready);
    if all.is_empty() {
        all = of(|pod| pod.leaving);
    }
    // A pod with addresses of both families is one pod.
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
            "metadata": {"name": name, "labels": {(SERVICE): "budget"}}, "addressType": kind,
            "ports": [{"name": "http", "port": 3003}, {"name": "other", "port": 9}], "endpoints": endpoints,
        });
        Slice::read(serde_json::from_value(slice).unwrap()).unwrap().1
    }

    fn at(address: &str, conditions: Value) -> Value {
        json!({"addresses": [address], "conditions": conditions})
    }

    #[test]
    fn pods_that_are_ready_and_stay_are_called() {
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
            // In two slices while the controller moves it from one to the other.
            slice("b", json!([at("10.0.0.1", json!({"ready": true}))])),
            slice("c", Value::Null),
        ];
        let slices: Vec<&Slice> = slices.iter().collect();
        assert_eq!(addresses(&slices), ["10.0.0.1:3003", "10.0.0.4:3003", "10.0.0.5:3003"]);
        assert_eq!(addresses(&slices[2..]), Vec::<String>::new());
    }

    #[test]
    fn pods_that_leave_are_called_only_while_no_other_is_ready() {
        let leaving = |serving| json!({"ready": false, "serving": serving, "terminating": true});
        let slice = slice("a", json!([at("10.0.0.1", leaving(true)), at("10.0.0.2", leaving(false))]));
        assert_eq!(addresses(&[&slice]), ["10.0.0.1:3003"]);
    }

    #[test]
    fn a_pod_of_two_address_families_is_one_pod() {
        let (four, six) =
            (slice("v4", json!([at("10.0.0.1", json!({}))])), slice("v6", json!([at("fd00::1", json!({}))])));
        assert_eq!(addresses(&[&four, &six]), ["10.0.0.1:3003"]);
        assert_eq!(addresses(&[&six]), ["[fd00::1]:3003"]);
    }

    #[test]
    fn a_peer_given_otherwise_than_by_a_bare_name_is_called_where_it_was_given() {
        let peers: HashMap<_, _> = [
            ("budget", vec!["budget:3003"]),
            ("coach", vec!["coach.other:3004"]),
            ("meta", vec!["10.0.0.1:3002"]),
            ("reports", vec!["[fd00::1]:3008"]),
            ("training", vec!["a:3001", "b:3001"]),
        ]
        .map(|(name, at)| (name.to_owned(), Live::new(at.into_iter().map(str::to_owned).collect())))
        .into();
        let definition = crate::services::named("web").unwrap();
        let names: Vec<_> = services(definition, &peers).into_iter().map(|service| service.name).collect();
        assert_eq!(names, ["budget"]);
    }
}
