//! Live events of the fleet over one connection: each peer is a topic of the gateway's hub.
//!
//! ```text
//! clients of a tenant -> hub of the gateway <- one stream per peer and tenant <- GET /api/v1/events of the peer
//! ```
//!
//! A tenant that somebody watches has one stream to each watched peer, whatever the number of its clients. The
//! stream resumes after a lost connection; the newest event of each kind is the state that new clients get first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::BoxFuture};
use http::{HeaderValue, Request, Uri};
use parking_lot::Mutex;
use phase6_chassis::{
    Kit, Principal, Role, Upstream,
    events::{Event, Hub, Snapshot, Source, TooManyWatchers, Watcher, Watchers},
    identity::Name,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait for the head of a peer's response.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Longest silence of a peer, which sends a comment every 15 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(40);
/// Shortest pause before a stream is opened again. It doubles with each refusal, up to the longest one.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Largest event of a peer, in bytes.
const MAX_EVENT: usize = 1024 * 1024;
/// Largest number of kinds of events of a peer.
const MAX_KINDS: usize = 100;

/// State of the peer, by tenant.
type States = Mutex<HashMap<Name, State>>;

/// Newest event of each kind for a tenant.
struct State {
    /// Stream that the events come from.
    relay: u64,
    kinds: BTreeMap<String, String>,
}

/// The events of a peer.
struct PeerEvents {
    peer: &'static str,
    upstream: Upstream,
    watchers: Watchers,
    /// Number of streams so far.
    relays: AtomicU64,
    states: Arc<States>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Declares the topics: one per peer.
pub(crate) fn declare(kit: &Kit, upstream: &Upstream) {
    kit.events.declare(Arc::new(PeerEvents {
        peer: upstream.name(),
        upstream: upstream.clone(),
        watchers: Watchers::default(),
        relays: AtomicU64::default(),
        states: Arc::default(),
        tasks: kit.tasks.clone(),
        stop: kit.stop.clone(),
    }));
}

impl Source for PeerEvents {
    fn topic(&self) -> &'static str {
        self.peer
    }

    fn snapshot(&self, tenant: &Name) -> BoxFuture<'static, Snapshot> {
        let states = self.states.lock();
        let state: Snapshot =
            states.get(tenant).into_iter().flat_map(|state| &state.kinds).map(pair).collect();
        Box::pin(async move { state })
    }

    fn watch(&self, tenant: &Name, hub: &Hub) -> Result<Watcher, TooManyWatchers> {
        let (watcher, started) = self.watchers.admit(tenant)?;
        if let Some(stop) = started {
            let reader =
                Principal { role: Role::Reader, tenant: tenant.clone(), ..Principal::service("web") };
            let id = self.relays.fetch_add(1, Ordering::Relaxed);
            // Takes the place of the one before, which may not have ended yet.
            let state = State { relay: id, kinds: BTreeMap::new() };
            self.states.lock().insert(tenant.clone(), state);
            let relay = Relay {
                id,
                peer: self.peer,
                upstream: self.upstream.on_behalf_of(reader),
                tenant: tenant.clone(),
                hub: hub.clone(),
                states: Arc::clone(&self.states),
                is_open: false,
                last: None,
            };
            self.tasks.spawn(relay.run(stop, self.stop.clone()));
        }
        Ok(watcher)
    }
}

fn pair((kind, data): (&String, &String)) -> (String, String) {
    (kind.clone(), data.clone())
}

/// Publishes the events of a peer for one tenant.
struct Relay {
    id: u64,
    peer: &'static str,
    upstream: Upstream,
    tenant: Name,
    hub: Hub,
    states: Arc<States>,
    /// True once the peer has accepted the stream.
    is_open: bool,
    /// ID of the last event, by which the stream resumes.
    last: Option<HeaderValue>,
}

impl Relay {
    async fn run(mut self, stop: CancellationToken, shutdown: CancellationToken) {
        let relaying = async {
            let mut pause = MIN_PAUSE;
            loop {
                self.is_open = false;
                if let Err(error) = self.relay_stream().await {
                    tracing::debug!(peer = self.peer, error, "no live events of a peer");
                }
                pause = if self.is_open { MIN_PAUSE } else { (2 * pause).min(MAX_PAUSE) };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = shutdown.cancelled() => {}
            () = relaying => {}
        }
        let mut states = self.states.lock();
        if states.get(&self.tenant).is_some_and(|state| state.relay == self.id) {
            states.remove(&self.tenant);
        }
    }

    /// Opens a stream, and publishes its events until it ends.
    async fn relay_stream(&mut self) -> Result<(), String> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/api/v1/events");
        if let Some(last) = &self.last {
            request.headers_mut().insert("last-event-id", last.clone());
        }
        let response = self.upstream.call(request, HEAD_LIMIT).await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        self.is_open = true;
        let mut body = response.into_body().into_data_stream();
        let mut buffer = BytesMut::new();
        while let Some(part) = next_part(&mut body).await? {
            buffer.extend_from_slice(&part);
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event = buffer.split_to(end + 2);
                self.publish(std::str::from_utf8(&event).map_err(|_| "an event is not UTF-8")?);
            }
            if buffer.len() > MAX_EVENT {
                return Err(format!("an event is larger than {MAX_EVENT} bytes"));
            }
        }
        Ok(())
    }

    fn publish(&mut self, event: &str) {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let (Some(kind), Some(data)) = (field("event: "), field("data: ")) else { return };
        let kind = format!("{}.{kind}", self.peer);
        self.last = field("id: ").and_then(|id| HeaderValue::from_str(id).ok());
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(&self.tenant).filter(|state| state.relay == self.id) else { return };
        let kinds = &mut state.kinds;
        if kinds.len() < MAX_KINDS || kinds.contains_key(&kind) {
            kinds.insert(kind.clone(), data.to_owned());
        }
        // While the states are locked: a client gets each event either in its snapshot or after it, or in both.
        self.hub.publish(&Event { tenant: Some(&self.tenant), topic: self.peer, kind: &kind, data });
    }
}

/// Returns the next part of a body; `None` at its end.
async fn next_part(body: &mut BodyDataStream) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(SILENCE_LIMIT, body.next()).await {
        Err(_) => Err(format!("nothing was received for {} s", SILENCE_LIMIT.as_secs())),
        Ok(None) => Ok(None),
        Ok(Some(part)) => part.map(Some).map_err(|error| error.to_string()),
    }
}
