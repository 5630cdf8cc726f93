//! What a service consists of: caches, limiters, breakers, pools, each with what it shows.
//!
//! Whoever makes a part registers it, once; observability and status are put together from here,
//! so a part that exists is seen and a part that does not exist is not.

use std::sync::Arc;

use parking_lot::Mutex;
use phase6_breaker::Breaker;
use serde_json::{Map, Value, json};

use crate::Upstream;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Guards calls to a peer or provider.
    CircuitBreaker,
    /// Keeps answers.
    Cache,
    /// Limits requests.
    RateLimiter,
    /// Holds connections to the records.
    Database,
    /// Another service that is called.
    Peer,
    /// Anything else worth a look.
    Other,
}

impl Kind {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitBreaker => "circuit-breaker",
            Self::Cache => "cache",
            Self::RateLimiter => "rate-limiter",
            Self::Database => "database",
            Self::Peer => "peer",
            Self::Other => "other",
        }
    }
}

type Show = dyn Fn() -> Value + Send + Sync;

struct Component {
    kind: Kind,
    name: String,
    show: Box<Show>,
}

/// The parts of one service. Clones share them.
#[derive(Clone, Default)]
pub struct Components {
    list: Arc<Mutex<Vec<Component>>>,
    breakers: Arc<Mutex<Vec<Breaker>>>,
    peers: Arc<Mutex<Vec<Upstream>>>,
}

impl Components {
    /// Adds a part; `show` gives what it shows now, or null while it is not in use. A part of the same
    /// kind and name is replaced.
    pub fn register(
        &self,
        kind: Kind,
        name: impl Into<String>,
        show: impl Fn() -> Value + Send + Sync + 'static,
    ) {
        let component = Component { kind, name: name.into(), show: Box::new(show) };
        let mut list = self.list.lock();
        list.retain(|other| other.kind != component.kind || other.name != component.name);
        list.push(component);
    }

    /// Adds a breaker.
    pub fn register_breaker(&self, breaker: &Breaker) {
        self.breakers.lock().push(breaker.clone());
        let shown = breaker.clone();
        self.register(Kind::CircuitBreaker, breaker.name(), move || json!(shown.snapshot()));
    }

    /// Adds a peer: its endpoints come and go, and their breakers with them.
    pub(crate) fn register_peer(&self, peer: &Upstream) {
        self.peers.lock().push(peer.clone());
        let shown = peer.clone();
        self.register(Kind::Peer, peer.name(), move || json!(shown.snapshot()));
    }

    /// Every peer.
    pub(crate) fn peers(&self) -> Vec<Upstream> {
        self.peers.lock().clone()
    }

    /// What is called, by name, with the breakers around it: a provider's one, and those of a peer's
    /// endpoints.
    pub(crate) fn breakers(&self) -> Vec<(String, Vec<Breaker>)> {
        let of = |peer: &Upstream| {
            let breakers = peer.breakers().into_iter().map(|(_, breaker)| breaker);
            (peer.name().to_owned(), breakers.collect())
        };
        let single = |breaker: &Breaker| (breaker.name().to_owned(), vec![breaker.clone()]);
        let providers: Vec<_> = self.breakers.lock().iter().map(single).collect();
        providers.into_iter().chain(self.peers().iter().map(of)).collect()
    }

    /// What every part of a kind that is in use shows, by name.
    pub(crate) fn shown(&self, kind: Kind) -> Map<String, Value> {
        let list = self.list.lock();
        let of_kind = list.iter().filter(|component| component.kind == kind);
        let shown = of_kind.map(|component| (component.name.clone(), (component.show)()));
        let mut shown: Map<_, _> = shown.filter(|(_, value)| !value.is_null()).collect();
        if kind == Kind::CircuitBreaker {
            let around_peers = self.peers().into_iter().flat_map(|peer| peer.breakers());
            shown.extend(around_peers.map(|(name, breaker)| (name, json!(breaker.snapshot()))));
        }
        shown
    }

    /// Kinds and names of all parts.
    pub(crate) fn names(&self) -> Value {
        let list = self.list.lock();
        let mut names: Vec<_> =
            list.iter().map(|component| (component.kind, component.name.clone())).collect();
        names.sort();
        names.into_iter().map(|(kind, name)| json!({"kind": kind.as_str(), "name": name})).collect()
    }
}
