//! Reconciler of one resource with everything around it in process: a scripted API server, caches that the
//! test fills in place of watches, and replicas.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{reflector::store::Writer as CacheWriter, watcher};
use parking_lot::Mutex;
use serde_json::json;

use super::first_reconcile;
use crate::{
    build::{self, BuildOptions, Kind},
    election::Leadership,
    fixtures::{Call, NAMESPACE, Scenario, ScriptedApi},
    probe::PolicyProbe,
    reconcile::*,
};

/// Reconciler of one resource named `budget`, with its API server, its caches and its replicas.
pub(super) struct Harness {
    pub(super) api: ScriptedApi,
    caches: Caches,
    pub(super) replicas: FakeReplicas,
    pub(super) context: Arc<Context>,
    reconciler: Arc<Reconciler>,
    /// Resource as the watch shows it.
    pub(super) object: DynamicObject,
}

/// Writers of the caches that watches would fill.
struct Caches {
    resources: CacheWriter<DynamicObject>,
    pods: CacheWriter<Pod>,
    owned: BTreeMap<Kind, CacheWriter<DynamicObject>>,
}

/// Outcome of one reconcile.
pub(super) struct Outcome {
    pub(super) result: Result<Action, ReconcileError>,
    pub(super) calls: Vec<Call>,
}

impl Harness {
    /// Creates a stored resource for which nothing was done yet.
    pub(super) async fn new(spec: Value) -> Self {
        Self::with_leadership(spec, Leadership::always()).await
    }

    pub(super) async fn with_leadership(spec: Value, leadership: Leadership) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = ScriptedApi::default();
        let stored = api.store(
            &resource_api(),
            json!({
                "apiVersion": "phase6.dev/v1alpha1",
                "kind": "Phase6Service",
                "metadata": {"name": "budget", "namespace": NAMESPACE, "uid": "2b1c", "generation": 1},
                "spec": spec,
            }),
        );
        let caches = Caches {
            resources: CacheWriter::new(resource_api()),
            pods: CacheWriter::new(()),
            owned: Kind::ALL.map(|kind| (kind, CacheWriter::new(kind.api()))).into(),
        };
        let view = ClusterView::new(
            caches.resources.as_reader(),
            caches.pods.as_reader(),
            caches.owned.iter().map(|(kind, writer)| (*kind, writer.as_reader())).collect(),
        );
        let replicas = FakeReplicas::start().await;
        let probe = PolicyProbe::through_proxy(&replicas.url).unwrap();
        let client = api.client();
        let context = Arc::new(Context::new(client, options(), leadership, probe, "operator-0".into()));
        let reconciler = Arc::new(Reconciler::new(Arc::clone(&context), view));
        let object = serde_json::from_value(stored).unwrap();
        let mut harness = Self { api, caches, replicas, context, reconciler, object };
        harness.sync();
        harness
    }

    /// Creates a resource that was reconciled, and whose objects the watches show.
    pub(super) async fn reconciled(spec: Value) -> Self {
        let mut harness = Self::new(spec).await;
        harness.play(first_reconcile()).await.result.unwrap();
        harness.sync();
        harness
    }

    /// Reconciles once and checks that exactly the calls of the scenario were made.
    pub(super) async fn play(&self, scenario: Scenario) -> Outcome {
        self.api.start(scenario);
        let result = Arc::clone(&self.reconciler).reconcile(Arc::new(self.object.clone())).await;
        Outcome { result, calls: self.api.finish() }
    }

    /// Delivers everything that is stored to the caches, as watches do after a moment.
    pub(super) fn sync(&mut self) {
        for (kind, writer) in &mut self.caches.owned {
            let objects = self.api.list(&kind.api().kind);
            list(writer, objects.into_iter().map(|object| serde_json::from_value(object).unwrap()));
        }
        let stored = self.api.get(&resource_api(), "budget").unwrap();
        self.object = serde_json::from_value(stored).unwrap();
        list(&mut self.caches.resources, [self.object.clone()]);
        list(&mut self.caches.pods, self.replicas.pods());
    }

    /// Changes fields of the spec, as a user does.
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut stored = self.api.get(&resource_api(), "budget").unwrap();
        edit(&mut stored["spec"]);
        stored["metadata"]["generation"] = (stored["metadata"]["generation"].as_i64().unwrap() + 1).into();
        self.api.store(&resource_api(), stored);
        self.sync();
    }

    /// Changes a stored object, as another client does.
    pub(super) fn modify(&mut self, kind: Kind, name: &str, modify: impl FnOnce(&mut Value)) {
        let mut stored = self.api.get(&kind.api(), name).unwrap();
        modify(&mut stored);
        self.api.store(&kind.api(), stored);
        self.sync();
    }

    /// Returns the document in the stored `ConfigMap`.
    pub(super) fn published(&self) -> PolicyDocument {
        build::read_document(&self.api.get(&Kind::ConfigMap.api(), "budget-policy").unwrap()).unwrap()
    }

    /// Returns status, reason and message of a condition in the stored status.
    pub(super) fn condition(&self, type_: &str) -> (String, String, String) {
        let stored = self.api.get(&resource_api(), "budget").unwrap();
        let conditions = stored["status"]["conditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["type"] == type_).unwrap();
        let field = |name: &str| condition[name].as_str().unwrap().to_owned();
        (field("status"), field("reason"), field("message"))
    }
}

fn list<K>(writer: &mut CacheWriter<K>, objects: impl IntoIterator<Item = K>)
where
    K: Resource<DynamicType: Clone + Eq + std::hash::Hash> + Clone + 'static,
{
    writer.apply_watcher_event(&watcher::Event::Init);
    for object in objects {
        writer.apply_watcher_event(&watcher::Event::InitApply(object));
    }
    writer.apply_watcher_event(&watcher::Event::InitDone);
}

fn options() -> BuildOptions {
    BuildOptions {
        stop_notice: 95,
        image: "registry.example/phase6:1.0.0".into(),
        pull_policy: None,
        pull_secrets: vec![],
        access_secret: "phase6-access".into(),
        database: None,
        redis: None,
        collector: None,
        operator_namespace: "phase6-system".into(),
        network_policy: false,
        egress_ports: vec![],
        service_monitors: false,
        monitor_labels: BTreeMap::new(),
    }
}

/// Policies by pod address; a pod without one fails its probes.
type Policies = Arc<Mutex<BTreeMap<String, Option<Value>>>>;

/// Pods whose `/policyz` is served by one HTTP proxy.
pub(super) struct FakeReplicas {
    url: String,
    policies: Policies,
}

impl FakeReplicas {
    async fn start() -> Self {
        let policies = Policies::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(policyz).with_state(Arc::clone(&policies));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, policies }
    }

    /// Sets what the replica at an address enforces, or lets its probes fail.
    pub(super) fn set(&self, address: &str, document: Option<&PolicyDocument>) {
        let policy = document.map(|document| {
            json!({"uid": document.owner_uid, "revision": document.revision, "hash": document.hash})
        });
        self.policies.lock().insert(address.into(), policy);
    }

    /// Returns a ready pod for each replica.
    fn pods(&self) -> Vec<Pod> {
        let pod = |address: &String| {
            serde_json::from_value(json!({
                "metadata": {
                    "name": format!("budget-{address}"),
                    "namespace": NAMESPACE,
                    "labels": {build::RESOURCE_LABEL: "budget"},
                },
                "status": {
                    "podIP": address, "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }))
            .unwrap()
        };
        self.policies.lock().keys().map(pod).collect()
    }
}

async fn policyz(State(policies): State<Policies>, request: Request) -> Response {
    // A request to a proxy names the host in its target.
    let policy = request.uri().host().and_then(|host| policies.lock().get(host).cloned().flatten());
    match policy {
        Some(policy) => Json(policy).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
