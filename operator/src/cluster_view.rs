//! Cluster state as the watches last showed it.
//!
//! Everything that a reconcile reads comes from here, without a call to the API server. The view lags
//! behind the API server by the latency of a watch; [`pending_writes`](crate::pending_writes) covers the
//! operator's own writes in the meantime.

use std::{collections::BTreeMap, fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use backon::ExponentialBuilder;
use futures_util::{StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::Resource,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, ExponentialBackoff, watcher},
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::{
    build::{Kind, MANAGED_BY, RESOURCE_LABEL},
    resource::{ResourceId, resource_api},
};

/// Time in seconds after which the API server ends a watch. One that lasts five seconds longer is dead, so
/// a lost connection stays unnoticed for 30 seconds at most.
const WATCH_SECONDS: u32 = 25;
/// Shortest pause between attempts to watch.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Longest pause between attempts to watch.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Namespaces that one controller reconciles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces.
    Cluster,
    /// A single namespace.
    Namespace(String),
}

impl Scope {
    fn objects(&self, client: &Client, kind: &ApiResource) -> Api<DynamicObject> {
        match self {
            Self::Cluster => Api::all_with(client.clone(), kind),
            Self::Namespace(name) => Api::namespaced_with(client.clone(), name, kind),
        }
    }

    fn pods(&self, client: &Client) -> Api<Pod> {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(name) => Api::namespaced(client.clone(), name),
        }
    }
}

/// Caches of all watches of one scope. They advance only while the [`WatchStreams`] are polled.
pub struct ClusterView {
    resources: Store<DynamicObject>,
    pods: Store<Pod>,
    owned: BTreeMap<Kind, Store<DynamicObject>>,
    /// Shared wait: a store wakes only the last of several tasks that wait for it.
    synced: OnceCell<()>,
}

type WatchStream<K> = BoxStream<'static, Result<K, watcher::Error>>;

/// Objects that changed or were deleted, by watch.
pub struct WatchStreams {
    /// `Phase6Service` resources.
    pub resources: WatchStream<DynamicObject>,
    /// Pods of the resources.
    pub pods: WatchStream<Pod>,
    /// Objects that the operator makes, by kind.
    pub owned: Vec<(ApiResource, WatchStream<DynamicObject>)>,
}

impl ClusterView {
    /// Creates a view of caches that others fill.
    pub fn new(
        resources: Store<DynamicObject>,
        pods: Store<Pod>,
        owned: BTreeMap<Kind, Store<DynamicObject>>,
    ) -> Self {
        Self { resources, pods, owned, synced: OnceCell::new() }
    }

    /// Starts all watches of a scope. `service_monitors` is true if the cluster has the kind
    /// `ServiceMonitor`, which is otherwise not watched.
    pub fn watch(client: &Client, scope: &Scope, service_monitors: bool) -> (Self, WatchStreams) {
        let managed = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let unfiltered = watcher::Config::default();
        let kind = resource_api();
        let (resources, resource_stream) = watch(scope.objects(client, &kind), unfiltered, kind);
        let (pods, pod_stream) = watch(scope.pods(client), managed.clone(), ());
        let mut owned = BTreeMap::new();
        let mut owned_streams = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::ServiceMonitor || service_monitors) {
            let api = kind.api();
            let (store, stream) = watch(scope.objects(client, &api), managed.clone(), api.clone());
            owned.insert(kind, store);
            owned_streams.push((api, stream));
        }
        let streams = WatchStreams { resources: resource_stream, pods: pod_stream, owned: owned_streams };
        (Self::new(resources, pods, owned), streams)
    }

    /// Waits until every watch has listed its objects once.
    pub async fn wait_until_synced(&self) {
        let wait = async || {
            for store in self.owned.values().chain([&self.resources]) {
                // Fails only if the writer was dropped, which means that the controller is ending.
                let _ = store.wait_until_ready().await;
            }
            let _ = self.pods.wait_until_ready().await;
        };
        self.synced.get_or_init(wait).await;
    }

    /// Returns the cache of resources.
    pub fn resources(&self) -> Store<DynamicObject> {
        self.resources.clone()
    }

    /// Returns an object that the operator made.
    pub fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = ObjectRef::new_with(name, kind.api()).within(namespace);
        let object = self.owned.get(&kind)?.get(&key)?;
        let mut value = serde_json::to_value(&*object).ok()?;
        // The API server leaves both fields out of the items of a list.
        let api = kind.api();
        value["apiVersion"] = api.api_version.into();
        value["kind"] = api.kind.into();
        Some(value)
    }

    /// Returns the names of the objects of a kind that a resource owns, except those being deleted.
    pub fn owned_names(&self, kind: Kind, owner: &ResourceId) -> Vec<String> {
        let Some(store) = self.owned.get(&kind) else { return vec![] };
        let is_owned = |object: &DynamicObject| {
            belongs_to(object, &owner.namespace, &owner.name)
                && object.owner_references().iter().any(|reference| reference.uid == owner.uid)
                && object.metadata.deletion_timestamp.is_none()
        };
        store.state_filter(is_owned).iter().map(|object| object.name_any()).collect()
    }

    /// Returns the pods of a resource.
    pub fn pods(&self, namespace: &str, name: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| belongs_to(pod, namespace, name))
    }
}

/// Returns true if an object carries the label of the resource.
fn belongs_to(object: &impl ResourceExt, namespace: &str, name: &str) -> bool {
    object.namespace().as_deref() == Some(namespace)
        && object.labels().get(RESOURCE_LABEL).is_some_and(|resource| resource == name)
}

/// Starts a watch that fills a cache.
fn watch<K>(api: Api<K>, config: watcher::Config, kind: K::DynamicType) -> (Store<K>, WatchStream<K>)
where
    K: Resource<DynamicType: Eq + Hash + Clone + Send + Sync>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let writer = Writer::new(kind);
    let store = writer.as_reader();
    let retry_delays = ExponentialBuilder::default()
        .with_min_delay(MIN_RETRY_DELAY)
        .with_max_delay(MAX_RETRY_DELAY)
        .with_jitter()
        .without_max_times();
    let stream = watcher(api, config.timeout(WATCH_SECONDS))
        .backoff(ExponentialBackoff::from(retry_delays))
        // Managed fields make up half of an object and are not used here.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
        // A controller backs off all of its streams for every error of one of them. Each stream here
        // retries by itself, so its errors are logged and not passed on to the controller.
        .filter_map(|change| async {
            if let Err(error) = &change {
                tracing::warn!(%error, "watch interrupted");
            }
            change.ok().map(Ok)
        })
        .boxed();
    (store, stream)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test panics")]
mod tests {
    use std::convert::Infallible;

    use axum::{
        Json, Router,
        body::Body,
        extract::Request,
        response::{IntoResponse, Response},
    };
    use futures_util::stream;
    use serde_json::json;

    use super::*;

    /// Lists one Service, and keeps every watch open without a change.
    async fn respond(request: Request) -> Response {
        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            return Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>()).into_response();
        }
        let service = json!({"metadata": {
            "name": "budget", "namespace": "learning", "uid": "1", "resourceVersion": "1",
            "labels": {RESOURCE_LABEL: "budget"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Phase6Service", "name": "budget", "uid": "2b1c"}],
            "managedFields": [{"manager": "phase6-operator/service"}],
        }});
        let items = if request.uri().path().ends_with("/services") { vec![service] } else { vec![] };
        let metadata = json!({"resourceVersion": "1"});
        Json(json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
            .into_response()
    }

    /// After a relist every object once looked modified: items of a list carry neither field.
    #[tokio::test]
    async fn listed_objects_carry_their_api_version_and_kind() {
        let client = Client::new(Router::new().fallback(respond), "learning");
        let (view, streams) = ClusterView::watch(&client, &Scope::Cluster, false);
        let owned = streams.owned.into_iter().map(|(_, stream)| stream).chain([streams.resources]);
        let objects = tokio::spawn(stream::select_all(owned).for_each(|_| std::future::ready(())));
        let pods = tokio::spawn(streams.pods.for_each(|_| std::future::ready(())));
        view.wait_until_synced().await;

        let service = view.object(Kind::Service, "learning", "budget").unwrap();
        assert_eq!((&service["apiVersion"], &service["kind"]), (&json!("v1"), &json!("Service")));
        assert_eq!(service["metadata"]["managedFields"], json!([]), "dropped to save memory");
        let owner =
            |uid: &str| ResourceId { namespace: "learning".into(), name: "budget".into(), uid: uid.into() };
        assert_eq!(view.owned_names(Kind::Service, &owner("2b1c")), ["budget"]);
        assert!(view.owned_names(Kind::Service, &owner("former")).is_empty());
        assert!(view.pods("learning", "budget").is_empty());
        objects.abort();
        pods.abort();
    }
}
