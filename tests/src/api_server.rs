//! An API server that serves one kind: the `EndpointSlice`s of a namespace, by list and watch.
//!
//! A test can make it refuse all requests, stop it, and start it again at the same address.

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

/// State of a pod, as the conditions of its endpoint describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    Starting,
    Ready,
    /// Terminating, but still serving.
    Draining,
    /// Terminating, and no longer serving.
    Stopped,
}

/// The server. It stops when it is dropped.
pub struct ApiServer {
    address: SocketAddr,
    store: Arc<Store>,
    /// A runtime for the server alone, so that all of its connections can be closed at once.
    runtime: Option<Runtime>,
    kubeconfig: tempfile::NamedTempFile,
}

struct Store {
    content: Mutex<Content>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Content {
    slices: BTreeMap<String, Value>,
    /// Every watch event. The resource version after an event is the number of events up to it.
    events: Vec<Value>,
    forbidden: bool,
}

impl ApiServer {
    pub async fn start() -> Self {
        let store = Store { content: Mutex::default(), changed: watch::Sender::new(()) };
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { address, store: Arc::new(store), runtime: None, kubeconfig };
        server.restart().await;
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://{}", server.address)}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": NAMESPACE}}],
        });
        std::fs::write(server.kubeconfig.path(), text.to_string()).unwrap();
        server
    }

    /// Path of a kubeconfig for this server.
    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.path().to_str().unwrap()
    }

    /// Stops the server: every connection ends, and new ones are refused.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts the server again at its address.
    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap().into_std().unwrap();
        self.address = listener.local_addr().unwrap();
        let app = Router::new().fallback(handle).with_state(Arc::clone(&self.store));
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move { axum::serve(TcpListener::from_std(listener).unwrap(), app).await });
        self.runtime = Some(runtime);
    }

    /// Responds to every request with 403 from now on, or serves requests again.
    pub fn set_forbidden(&self, forbidden: bool) {
        self.store.content.lock().forbidden = forbidden;
    }

    /// Adds a pod of a Service, or changes its state. Each pod has a separate slice.
    pub fn set_pod(&self, service: &str, address: SocketAddr, state: PodState) {
        let conditions = match state {
            PodState::Starting => json!({"ready": false, "serving": false, "terminating": false}),
            PodState::Ready => json!({"ready": true, "serving": true, "terminating": false}),
            PodState::Draining => json!({"ready": false, "serving": true, "terminating": true}),
            PodState::Stopped => json!({"ready": false, "serving": false, "terminating": true}),
        };
        let endpoints = json!([{"addresses": [address.ip()], "conditions": conditions}]);
        self.change(service, address, Some(endpoints));
    }

    /// Removes the slice of a pod.
    pub fn remove_pod(&self, service: &str, address: SocketAddr) {
        self.change(service, address, None);
    }

    fn change(&self, service: &str, address: SocketAddr, endpoints: Option<Value>) {
        let mut content = self.store.content.lock();
        let (name, version) = (format!("{service}-{}", address.port()), content.events.len() + 1);
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": NAMESPACE, "resourceVersion": version.to_string(),
                "labels": {"kubernetes.io/service-name": service},
            },
            "ports": [{"name": "http", "port": address.port(), "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        let kind = match (&endpoints, content.slices.contains_key(&name)) {
            (None, _) => "DELETED",
            (_, true) => "MODIFIED",
            (_, false) => "ADDED",
        };
        if endpoints.is_some() {
            content.slices.insert(name, slice.clone());
        } else {
            content.slices.remove(&name);
        }
        content.events.push(json!({"type": kind, "object": slice}));
        drop(content);
        self.store.changed.send_replace(());
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn handle(
    State(store): State<Arc<Store>>,
    Query(parameters): Query<HashMap<String, String>>,
    uri: Uri,
) -> Response {
    let expected = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let selector = parameters.get("labelSelector").map(String::as_str).unwrap_or_default();
    if uri.path() != expected || !selector.starts_with("kubernetes.io/service-name in (") {
        return failure(StatusCode::NOT_FOUND, "NotFound");
    }
    let content = store.content.lock();
    if content.forbidden {
        return failure(StatusCode::FORBIDDEN, "Forbidden");
    }
    if parameters.get("watch").is_some_and(|watch| watch == "true") {
        let version = parameters.get("resourceVersion").and_then(|version| version.parse().ok());
        drop(content);
        return Body::from_stream(events(store, version.unwrap_or_default())).into_response();
    }
    let items: Vec<_> = content.slices.values().cloned().collect();
    let list = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList",
        "metadata": {"resourceVersion": content.events.len().to_string()}, "items": items,
    });
    axum::Json(list).into_response()
}

/// Streams the events after a resource version as they happen, one per line.
fn events(store: Arc<Store>, version: usize) -> impl stream::Stream<Item = Result<String, Infallible>> {
    let changed = store.changed.subscribe();
    stream::unfold((store, changed, version), |(store, mut changed, version)| async move {
        loop {
            let next = store.content.lock().events.get(version).map(|event| format!("{event}\n"));
            if let Some(line) = next {
                return Some((Ok(line), (store, changed, version + 1)));
            }
            changed.changed().await.ok()?;
        }
    })
}

fn failure(status: StatusCode, reason: &str) -> Response {
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": reason, "reason": reason,
        "code": status.as_u16(),
    });
    (status, axum::Json(body)).into_response()
}
