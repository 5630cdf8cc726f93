//! The endpoints of a peer: a list that changes while it is used, and the choice among them.
//!
//! An endpoint that stays on the list keeps its connections, its circuit breaker and its measurements. An
//! endpoint that leaves the list receives no further calls; its calls in flight are finished, and its idle
//! connections close.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use phase6_breaker::{Breaker, Permit, Settings};
use phase6_live::Live;

use super::{
    EndpointHealth, EndpointSnapshot,
    balance::{Draws, EndpointState, choose, eligible},
    endpoint::Endpoint,
};

/// Time between two probes of healthy endpoints. Varies by 10 %.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two probes while an endpoint is not healthy. Varies by 10 %.
const FAST_PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Largest number of endpoints of a peer that one caller calls. If there are more, each caller draws its own, so
/// that all callers together call all endpoints.
const MAX_ENDPOINTS: usize = 128;
/// Time until a retry if the peer has no endpoint.
const RETRY_WITHOUT_ENDPOINTS: Duration = Duration::from_secs(1);

pub(super) struct Endpoints {
    peer: &'static str,
    breaker: Live<Settings>,
    list: Live<Vec<Arc<Endpoint>>>,
    /// Hashes addresses to draw this caller's endpoints, if there are too many.
    draw: RandomState,
}

/// An endpoint that was chosen for a call.
pub(super) struct ChosenEndpoint {
    pub(super) endpoint: Arc<Endpoint>,
    /// Permit of the circuit breaker; `None` if the endpoint was chosen although its breaker is open. Such a
    /// call is not reported to the breaker.
    pub(super) permit: Option<Permit>,
}

/// No endpoint may be called now.
pub(super) struct NoneAvailable {
    /// Time until an endpoint may be available.
    pub(super) retry_after: Duration,
}

impl Endpoints {
    pub(super) fn new(peer: &'static str, addresses: &[String], breaker: &Live<Settings>) -> Self {
        let endpoints =
            Self { peer, breaker: breaker.clone(), list: Live::new(vec![]), draw: RandomState::new() };
        endpoints.update(addresses);
        endpoints
    }

    /// Replaces the list. Endpoints that were on it are kept; addresses that are not valid are left out.
    fn update(&self, addresses: &[String]) {
        let before = self.list.get();
        let mut addresses: Vec<&String> = addresses.iter().collect();
        if addresses.len() > MAX_ENDPOINTS {
            addresses.sort_by_cached_key(|address| self.draw.hash_one(address));
            addresses.truncate(MAX_ENDPOINTS);
        }
        let existing = |address: &str| before.iter().find(|endpoint| endpoint.address == address).cloned();
        let new = |address: &str| Endpoint::new(address, self.peer, &self.breaker).map(Arc::new);
        let now: Vec<_> =
            addresses.into_iter().filter_map(|address| existing(address).or_else(|| new(address))).collect();
        let is_unchanged = now.len() == before.len()
            && now.iter().zip(before.iter()).all(|(now, before)| Arc::ptr_eq(now, before));
        if !is_unchanged {
            tracing::debug!(peer = self.peer, before = before.len(), now = now.len(), "endpoints changed");
            self.list.set(now);
        }
    }

    /// True if there is more than one endpoint.
    pub(super) fn are_several(&self) -> bool {
        self.list.load().len() > 1
    }

    /// Returns the circuit breakers by name: that of the peer, with the address if there are several.
    pub(super) fn breakers(&self) -> Vec<(String, Breaker)> {
        let list = self.list.get();
        let name = |endpoint: &Endpoint| match list.len() {
            1 => self.peer.to_owned(),
            _ => format!("{}@{}", self.peer, endpoint.address),
        };
        list.iter().map(|endpoint| (name(endpoint), endpoint.breaker.clone())).collect()
    }

    pub(super) fn snapshot(&self) -> Vec<EndpointSnapshot> {
        self.list.get().iter().map(|endpoint| endpoint.snapshot()).collect()
    }

    /// Chooses the endpoint of a call. Avoids `tried`, the endpoint of the previous attempt, if a better one is
    /// eligible.
    pub(super) fn choose(&self, tried: Option<&Arc<Endpoint>>) -> Result<ChosenEndpoint, NoneAvailable> {
        let endpoints = self.list.load();
        let states: Vec<EndpointState> = endpoints.iter().map(|endpoint| endpoint.state()).collect();
        let mut eligible = eligible(&states, rand::random_range(0..MAX_ENDPOINTS));
        if let Some(tried) = tried {
            // A retry should succeed, so it does not go to an open endpoint if it need not.
            let is_other = |index: usize| !Arc::ptr_eq(tried, &endpoints[index]);
            for state in [EndpointState::Healthy, EndpointState::Suspect] {
                let is_better = |index: &usize| states[*index] == state && is_other(*index);
                if eligible.iter().any(is_better) {
                    eligible.retain(is_better);
                    break;
                }
            }
        }
        let chosen = match eligible[..] {
            [] => None,
            [only] => Some(only),
            _ => {
                let candidates: Vec<_> = eligible.iter().map(|index| endpoints[*index].candidate()).collect();
                choose(&candidates, Draws::random()).map(|chosen| eligible[chosen])
            }
        };
        if let Some(index) = chosen.filter(|index| states[*index] == EndpointState::Open) {
            return Ok(ChosenEndpoint { endpoint: Arc::clone(&endpoints[index]), permit: None });
        }
        // The chosen endpoint may have given its last probe to another call a moment ago. Any other endpoint
        // that admits the call is used then.
        let others = (0..endpoints.len()).filter(|index| Some(*index) != chosen);
        let mut soonest: Option<Duration> = None;
        for index in chosen.into_iter().chain(others) {
            match endpoints[index].breaker.admit() {
                Ok(permit) => {
                    return Ok(ChosenEndpoint {
                        endpoint: Arc::clone(&endpoints[index]),
                        permit: Some(permit),
                    });
                }
                Err(refused) => {
                    let wait = refused.retry_after();
                    soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait)));
                }
            }
        }
        Err(NoneAvailable { retry_after: soonest.unwrap_or(RETRY_WITHOUT_ENDPOINTS) })
    }

    /// Follows changes of the addresses and probes the endpoints, forever.
    pub(super) async fn maintain(&self, addresses: &Live<Vec<String>>) {
        tokio::join!(self.follow(addresses), self.probe());
    }

    async fn follow(&self, addresses: &Live<Vec<String>>) {
        let mut changes = addresses.subscribe();
        // They may have changed before the subscription.
        self.update(&addresses.get());
        loop {
            self.update(&changes.next().await);
        }
    }

    /// Probes all endpoints at once, each with a time limit, round after round. The next round begins after a
    /// pause, or as soon as the list changes.
    async fn probe(&self) {
        let mut changes = self.list.subscribe();
        loop {
            let list = self.list.get();
            join_all(list.iter().map(|endpoint| endpoint.probe(self.peer))).await;
            let are_healthy = list.iter().all(|endpoint| endpoint.health() == EndpointHealth::Healthy);
            let interval = if are_healthy { PROBE_INTERVAL } else { FAST_PROBE_INTERVAL };
            let pause = tokio::time::sleep(interval.mul_f64(0.9 + 0.2 * rand::random::<f64>()));
            tokio::select! {
                () = pause => {}
                _ = changes.next() => {}
            }
        }
    }
}
