//! The endpoints of a peer: a list that changes while it is used, and which of them gets a call.
//!
//! An endpoint that stays on the list keeps its connections, its breaker and what is known of it. One
//! that leaves it gets no further call: what is under way there ends as it would have, and its idle
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
    Condition, EndpointSnapshot,
    balance::{Standing, choose, eligible},
    endpoint::Endpoint,
};

/// How often endpoints are probed, and how often while one of them is not well.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_ANXIOUSLY: Duration = Duration::from_millis(500);
/// Most endpoints of a peer that one caller calls. Of more, each caller draws its own, so that all
/// callers together reach all of them.
const MOST: usize = 128;
/// When to ask again where there is no endpoint.
const NOBODY: Duration = Duration::from_secs(1);

pub(super) struct Endpoints {
    peer: &'static str,
    settings: Live<Settings>,
    list: Live<Vec<Arc<Endpoint>>>,
    /// What this caller draws by.
    draw: RandomState,
}

impl Endpoints {
    pub(super) fn new(peer: &'static str, addresses: &[String], settings: &Live<Settings>) -> Self {
        let endpoints =
            Self { peer, settings: settings.clone(), list: Live::new(vec![]), draw: RandomState::new() };
        endpoints.place(addresses);
        endpoints
    }

    /// Makes these the endpoints, and keeps of the old ones those that are among them. One that cannot be
    /// the host of a request is left out.
    fn place(&self, addresses: &[String]) {
        let before = self.list.get();
        let mut wanted: Vec<&String> = addresses.iter().collect();
        if wanted.len() > MOST {
            wanted.sort_by_cached_key(|address| self.draw.hash_one(address));
            wanted.truncate(MOST);
        }
        let kept = |address: &str| before.iter().find(|endpoint| endpoint.address == address).cloned();
        let new = |address: &str| Endpoint::new(address, self.peer, &self.settings).map(Arc::new);
        let now: Vec<_> =
            wanted.into_iter().filter_map(|address| kept(address).or_else(|| new(address))).collect();
        let same = now.len() == before.len()
            && now.iter().zip(before.iter()).all(|(now, before)| Arc::ptr_eq(now, before));
        if !same {
            tracing::debug!(peer = self.peer, before = before.len(), now = now.len(), "other endpoints");
            self.list.set(now);
        }
    }

    pub(super) fn are_several(&self) -> bool {
        self.list.load().len() > 1
    }

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

    /// An endpoint to be called, and the right to do so; not the one that was just tried, if there is another.
    /// The last resort is called without its breaker's leave, and tells it nothing. If none may be called,
    /// how long to wait.
    pub(super) fn choose(
        &self,
        tried: Option<&Arc<Endpoint>>,
    ) -> Result<(Arc<Endpoint>, Option<Permit>), Duration> {
        let endpoints = self.list.load();
        let standings: Vec<Standing> = endpoints.iter().map(|endpoint| endpoint.standing()).collect();
        let mut eligible = eligible(&standings, rand::random_range(0..MOST));
        if let Some(tried) = tried {
            // A second try is no occasion for the last resort.
            let other = |index: usize| !Arc::ptr_eq(tried, &endpoints[index]);
            for standing in [Standing::Well, Standing::Doubtful] {
                let better = |index: &usize| standings[*index] == standing && other(*index);
                if eligible.iter().any(better) {
                    eligible.retain(better);
                    break;
                }
            }
        }
        let chosen = match eligible[..] {
            [] => None,
            [only] => Some(only),
            _ => {
                let candidates: Vec<_> = eligible.iter().map(|index| endpoints[*index].candidate()).collect();
                choose(&candidates, rand::random()).map(|chosen| eligible[chosen])
            }
        };
        if let Some(index) = chosen.filter(|index| standings[*index] == Standing::Refusing) {
            return Ok((Arc::clone(&endpoints[index]), None));
        }
        let others = (0..endpoints.len()).filter(|index| Some(*index) != chosen);
        // The chosen one may have given its last probe to another call a moment ago.
        let mut soonest: Option<Duration> = None;
        for index in chosen.into_iter().chain(others) {
            match endpoints[index].breaker.admit() {
                Ok(permit) => return Ok((Arc::clone(&endpoints[index]), Some(permit))),
                Err(refused) => {
                    let wait = refused.retry_after();
                    soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait)));
                }
            }
        }
        Err(soonest.unwrap_or(NOBODY))
    }

    /// Probes every endpoint, and follows where they are. All are probed at once, each with a limit; the
    /// next round begins after the last one has ended, at once if the list is another one.
    pub(super) async fn tend(&self, addresses: &Live<Vec<String>>) {
        let mut changes = addresses.subscribe();
        let mut placed = self.list.subscribe();
        let follow = async {
            // They may have changed before anybody listened.
            self.place(&addresses.get());
            loop {
                self.place(&changes.next().await);
            }
        };
        let probe = async {
            loop {
                let list = self.list.get();
                join_all(list.iter().map(|endpoint| endpoint.probe(self.peer))).await;
                let well = list.iter().all(|endpoint| endpoint.condition() == Condition::Healthy);
                let every = if well { PROBE_EVERY } else { PROBE_ANXIOUSLY };
                let pause = tokio::time::sleep(every.mul_f64(0.9 + 0.2 * rand::random::<f64>()));
                tokio::select! {
                    () = pause => {}
                    _ = placed.next() => {}
                }
            }
        };
        tokio::join!(follow, probe);
    }
}
