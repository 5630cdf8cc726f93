//! The components of a service: caches, limiters, breakers, connection pools, each with its snapshot.
//!
//! The code that creates a component registers it. Status and observability are assembled from here, so they
//! show every component that exists and no other.

use std::sync::Arc;

use parking_lot::Mutex;
use phase6_breaker::{Breaker, State};
use serde_json::{Map, Value, json};

use super::Registrar;
use crate::{EndpointHealth, Upstream};

/// Kind of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ComponentKind {
    /// Circuit breaker around a peer's endpoint or a provider.
    CircuitBreaker,
    /// Response cache.
    Cache,
    /// Rate limiter.
    RateLimiter,
    /// Connection pool of the database.
    Database,
    /// Service that this one calls.
    Peer,
    /// Periodic work.
    Job,
    /// Any other component.
    Other,
}

impl ComponentKind {
    /// Name in `/api/v1/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitBreaker => "circuit-breaker",
            Self::Cache => "cache",
            Self::RateLimiter => "rate-limiter",
            Self::Database => "database",
            Self::Peer => "peer",
            Self::Job => "job",
            Self::Other => "other",
        }
    }
}

#[derive(Clone)]
struct Component {
    kind: ComponentKind,
    name: String,
    snapshot: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// The components of one service. Clones share them.
#[derive(Clone, Default)]
pub struct Components {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    list: Mutex<Vec<Component>>,
    breakers: Mutex<Vec<Breaker>>,
    peers: Mutex<Vec<Upstream>>,
}

/// The circuit breakers around a peer, one per endpoint, or the one around a provider.
struct BreakerGroup {
    name: String,
    breakers: Vec<Breaker>,
}

impl Components {
    /// Adds a component, in place of one with the same kind and name. `snapshot` returns what the component
    /// shows, and null while it is not in use.
    pub fn register(
        &self,
        kind: ComponentKind,
        name: impl Into<String>,
        snapshot: impl Fn() -> Value + Send + Sync + 'static,
    ) {
        let component = Component { kind, name: name.into(), snapshot: Arc::new(snapshot) };
        let mut list = self.inner.list.lock();
        list.retain(|other| other.kind != component.kind || other.name != component.name);
        list.push(component);
    }

    /// Adds a circuit breaker.
    pub fn register_breaker(&self, breaker: &Breaker) {
        self.inner.breakers.lock().push(breaker.clone());
        let shown = breaker.clone();
        self.register(ComponentKind::CircuitBreaker, breaker.name(), move || json!(shown.snapshot()));
    }

    /// Adds a peer. The breakers of its endpoints come and go with the endpoints.
    pub(crate) fn register_peer(&self, peer: &Upstream) {
        self.inner.peers.lock().push(peer.clone());
        let shown = peer.clone();
        self.register(ComponentKind::Peer, peer.name(), move || json!(shown.snapshot()));
    }

    /// Registers the metric series of peers and circuit breakers. They cover those that are added later.
    ///
    /// Addresses of endpoints are not labels: they come and go, and every one would be a series forever.
    pub(crate) fn register_series(&self, registrar: &Registrar<'_>) {
        // A component may hold the telemetry, which owns the closures: a strong reference would be a cycle.
        let weak = Arc::downgrade(&self.inner);
        registrar.gauges(
            "phase6_circuit_breaker_open",
            "Fraction of the circuit breakers of a peer's endpoints or of a provider that are open, from 0 to 1; a \
             half-open breaker counts as 0.5",
            &["peer"],
            move || {
                let groups = weak.upgrade().map(|inner| inner.breaker_groups()).unwrap_or_default();
                groups.into_iter().map(|group| (vec![group.name], open_fraction(&group.breakers))).collect()
            },
        );
        let weak = Arc::downgrade(&self.inner);
        registrar.gauges(
            "phase6_peer_endpoints",
            "Endpoints of a peer, by health according to their readiness probes",
            &["peer", "health"],
            move || {
                let peers = weak.upgrade().map(|inner| inner.peers.lock().clone()).unwrap_or_default();
                let counts = |peer: &Upstream| {
                    let (name, endpoints) = (peer.name(), peer.snapshot());
                    EndpointHealth::ALL.map(|health| {
                        let count = endpoints.iter().filter(|endpoint| endpoint.health == health).count();
                        (vec![name.to_owned(), health.as_str().to_owned()], count as f64)
                    })
                };
                peers.iter().flat_map(counts).collect()
            },
        );
    }

    /// Returns the snapshots of the components of a kind that are in use, by name.
    pub(crate) fn snapshots(&self, kind: ComponentKind) -> Map<String, Value> {
        let of_kind: Vec<_> =
            self.inner.list.lock().iter().filter(|component| component.kind == kind).cloned().collect();
        let snapshots = of_kind.into_iter().map(|component| (component.name, (component.snapshot)()));
        let mut snapshots: Map<_, _> = snapshots.filter(|(_, value)| !value.is_null()).collect();
        if kind == ComponentKind::CircuitBreaker {
            let peers = self.inner.peers.lock().clone();
            let around_endpoints = peers.into_iter().flat_map(|peer| peer.breakers());
            snapshots.extend(around_endpoints.map(|(name, breaker)| (name, json!(breaker.snapshot()))));
        }
        snapshots
    }

    /// Returns the snapshot of the only component of a kind; an empty object if none is in use.
    pub(crate) fn only_snapshot(&self, kind: ComponentKind) -> Value {
        self.snapshots(kind).into_iter().next().map_or(json!({}), |(_, snapshot)| snapshot)
    }

    /// Returns kind and name of every component, sorted.
    pub(crate) fn names(&self) -> Value {
        let list = self.inner.list.lock();
        let mut names: Vec<_> =
            list.iter().map(|component| (component.kind, component.name.clone())).collect();
        names.sort();
        names.into_iter().map(|(kind, name)| json!({"kind": kind.as_str(), "name": name})).collect()
    }
}

impl Inner {
    /// Groups all circuit breakers by peer or provider.
    fn breaker_groups(&self) -> Vec<BreakerGroup> {
        let providers: Vec<_> = self.breakers.lock().clone();
        let providers = providers.into_iter();
        let peers: Vec<_> = self.peers.lock().clone();
        let peers = peers.into_iter().map(|peer| BreakerGroup {
            name: peer.name().to_owned(),
            breakers: peer.breakers().into_iter().map(|(_, breaker)| breaker).collect(),
        });
        providers
            .map(|breaker| BreakerGroup { name: breaker.name().to_owned(), breakers: vec![breaker] })
            .chain(peers)
            .collect()
    }
}

/// Fraction of breakers that are open, from 0 to 1. A half-open breaker counts half.
fn open_fraction(breakers: &[Breaker]) -> f64 {
    let openness = |breaker: &Breaker| match breaker.snapshot().status {
        State::Open => 1.0,
        State::HalfOpen => 0.5,
        State::Closed => 0.0,
    };
    breakers.iter().map(openness).sum::<f64>() / breakers.len().max(1) as f64
}
