//! An API server that knows one kind: the `EndpointSlice`s of a namespace. It can be listed and watched,
//! refuse to be, and be gone.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

const NAMESPACE: &str = "here";

/// What a pod's endpoint says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    Starting,
    Ready,
    /// It is to stop, and still answers.
    Leaving,
    /// It is to stop, and answers no more.
    Gone,
}

/// The server. It ends with this.
pub struct ApiServer {
    address: SocketAddr,
    world: Arc<World>,
    /// Of its own, so that all of its connections can be cut at once.
    runtime: Option<Runtime>,
    kubeconfig: tempfile::NamedTempFile,
}

struct World {
    now: Mutex<Now>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Now {
    slices: BTreeMap<String, Value>,
    /// Every change; its number is the version of the world after it.
    events: Vec<Value>,
    refuses: bool,
}

impl ApiServer {
    pub async fn start() -> Self {
        let world = World { now: Mutex::default(), changed: watch::Sender::new(()) };
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { address, world: Arc::new(world), runtime: None, kubeconfig };
        server.back().await;
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://{}", server.address)}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": NAMESPACE}}],
        });
        std::fs::write(server.kubeconfig.path(), text.to_string()).unwrap();
        server
    }

    /// The file that says where it is.
    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.path().to_str().unwrap()
    }

    /// Is gone: every connection ends, and nobody listens.
    pub fn gone(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Is there again, where it was.
    pub async fn back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap().into_std().unwrap();
        self.address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&self.world));
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move { axum::serve(TcpListener::from_std(listener).unwrap(), app).await });
        self.runtime = Some(runtime);
    }

    /// Refuses everybody, as without rights, or no longer.
    pub fn refuses(&self, refuses: bool) {
        self.world.now.lock().refuses = refuses;
    }

    /// A pod of a Service, in a slice of its own.
    pub fn pod(&self, service: &str, address: SocketAddr, stands: Stands) {
        let conditions = match stands {
            Stands::Starting => json!({"ready": false, "serving": false, "terminating": false}),
            Stands::Ready => json!({"ready": true, "serving": true, "terminating": false}),
            Stands::Leaving => json!({"ready": false, "serving": true, "terminating": true}),
            Stands::Gone => json!({"ready": false, "serving": false, "terminating": true}),
        };
        let endpoints = json!([{"addresses": [address.ip()], "conditions": conditions}]);
        self.change(service, address, Some(endpoints));
    }

    /// That pod's slice goes.
    pub fn without(&self, service: &str, address: SocketAddr) {
        self.change(service, address, None);
    }

    fn change(&self, service: &str, address: SocketAddr, endpoints: Option<Value>) {
        let mut now = self.world.now.lock();
        let (name, version) = (format!("{service}-{}", address.port()), now.events.len() + 1);
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": NAMESPACE, "resourceVersion": version.to_string(),
                "labels": {"kubernetes.io/service-name": service},
            },
            "ports": [{"name": "http", "port": address.port(), "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        let kind = match (&endpoints, now.slices.contains_key(&name)) {
            (None, _) => "DELETED",
            (_, true) => "MODIFIED",
            (_, false) => "ADDED",
        };
        if endpoints.is_some() {
            now.slices.insert(name, slice.clone());
        } else {
            now.slices.remove(&name);
        }
        now.events.push(json!({"type": kind, "object": slice}));
        drop(now);
        self.world.changed.send_replace(());
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.gone();
    }
}

async fn answer(
    State(world): State<Arc<World>>,
    Query(asked): Query<HashMap<String, String>>,
    uri: Uri,
) -> Response {
    let expected = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let selector = asked.get("labelSelector").map(String::as_str).unwrap_or_default();
    if uri.path() != expected || !selector.starts_with("kubernetes.io/service-name in (") {
        return failure(StatusCode::NOT_FOUND, "NotFound");
    }
    let now = world.now.lock();
    if now.refuses {
        return failure(StatusCode::FORBIDDEN, "Forbidden");
    }
    if asked.get("watch").is_some_and(|watch| watch == "true") {
        let seen = asked.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
        drop(now);
        return Body::from_stream(events(world, seen)).into_response();
    }
    let items: Vec<_> = now.slices.values().cloned().collect();
    let list = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList",
        "metadata": {"resourceVersion": now.events.len().to_string()}, "items": items,
    });
    axum::Json(list).into_response()
}

/// The changes after the `seen` first ones, one a line, as they come.
fn events(world: Arc<World>, seen: usize) -> impl stream::Stream<Item = Result<String, Infallible>> {
    let changed = world.changed.subscribe();
    stream::unfold((world, changed, seen), |(world, mut changed, seen)| async move {
        loop {
            let next = world.now.lock().events.get(seen).map(|event| format!("{event}\n"));
            if let Some(line) = next {
                return Some((Ok(line), (world, changed, seen + 1)));
            }
            changed.changed().await.ok()?;
        }
    })
}

fn failure(status: StatusCode, reason: &str) -> Response {
    let told = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": reason, "reason": reason,
        "code": status.as_u16(),
    });
    (status, axum::Json(told)).into_response()
}
