//! The cluster as its watches show it: everything that a reconcile reads, without asking the API.

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
use phase6_crds::Phase6Service;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::build::{Kind, MANAGED_BY, RESOURCE_LABEL};

/// A watch that the API server does not end within this time, plus five seconds, is dead: so long may
/// a lost connection stay unnoticed.
const WATCH_SECONDS: u32 = 25;
/// Pauses between attempts to watch: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The namespaces that one controller looks after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Cluster,
    /// One.
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

/// How the API calls our resource.
pub fn resource_api() -> ApiResource {
    ApiResource::erase::<Phase6Service>(&())
}

/// What the watches show. Current while [`Changes`] are followed.
pub struct World {
    resources: Store<DynamicObject>,
    pods: Store<Pod>,
    owned: BTreeMap<Kind, Store<DynamicObject>>,
    /// One waits for all: a store wakes only the last of those who wait for it.
    known: OnceCell<()>,
}

type Stream<K> = BoxStream<'static, Result<K, watcher::Error>>;

/// The changes that the watches tell of, removals included.
pub struct Changes {
    /// Of resources.
    pub resources: Stream<DynamicObject>,
    /// Of pods.
    pub pods: Stream<Pod>,
    /// Of what the operator makes.
    pub owned: Vec<(ApiResource, Stream<DynamicObject>)>,
}

impl World {
    /// Begins to watch. `monitors`: whether the cluster knows `ServiceMonitor`.
    pub fn watch(client: &Client, scope: &Scope, monitors: bool) -> (Self, Changes) {
        let ours = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let everything = watcher::Config::default();
        let kind = resource_api();
        let (resources, resource_changes) = follow(scope.objects(client, &kind), everything, kind);
        let (pods, pod_changes) = follow(scope.pods(client), ours.clone(), ());
        let mut owned = BTreeMap::new();
        let mut owned_changes = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::ServiceMonitor || monitors) {
            let api = kind.api();
            let (store, changes) = follow(scope.objects(client, &api), ours.clone(), api.clone());
            owned.insert(kind, store);
            owned_changes.push((api, changes));
        }
        let changes = Changes { resources: resource_changes, pods: pod_changes, owned: owned_changes };
        (Self { resources, pods, owned, known: OnceCell::new() }, changes)
    }

    /// Waits until every watch has shown all there is.
    pub async fn known(&self) {
        let wait = async || {
            for store in self.owned.values().chain([&self.resources]) {
                // A writer that is gone means that the controller is ending.
                let _ = store.wait_until_ready().await;
            }
            let _ = self.pods.wait_until_ready().await;
        };
        self.known.get_or_init(wait).await;
    }

    /// The resources.
    pub fn resources(&self) -> Store<DynamicObject> {
        self.resources.clone()
    }

    /// An object that the operator made.
    pub fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = ObjectRef::new_with(name, kind.api()).within(namespace);
        let object = self.owned.get(&kind)?.get(&key)?;
        let mut value = serde_json::to_value(&*object).ok()?;
        // Items of a list come without them.
        let api = kind.api();
        value["apiVersion"] = api.api_version.into();
        value["kind"] = api.kind.into();
        Some(value)
    }

    /// Names of the objects of a kind that belong to the resource with this uid.
    pub fn belonging_to(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Vec<String> {
        let Some(store) = self.owned.get(&kind) else { return vec![] };
        let belongs = |object: &DynamicObject| {
            object.namespace().as_deref() == Some(namespace)
                && object.labels().get(RESOURCE_LABEL).is_some_and(|of| of == name)
                && object.owner_references().iter().any(|owner| owner.uid == uid)
                && object.metadata.deletion_timestamp.is_none()
        };
        store.state_filter(belongs).iter().map(|object| object.name_any()).collect()
    }

    /// The pods of a resource.
    pub fn pods(&self, namespace: &str, name: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| {
            pod.namespace().as_deref() == Some(namespace)
                && pod.labels().get(RESOURCE_LABEL).is_some_and(|of| of == name)
        })
    }
}

/// Watches, and keeps what is seen.
fn follow<K>(api: Api<K>, config: watcher::Config, kind: K::DynamicType) -> (Store<K>, Stream<K>)
where
    K: Resource<DynamicType: Eq + Hash + Clone + Send + Sync>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let writer = Writer::new(kind);
    let store = writer.as_reader();
    let pauses = ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times();
    let changes = watcher(api, config.timeout(WATCH_SECONDS))
        .backoff(ExponentialBackoff::from(pauses))
        // Who set which field is half of an object, and nobody here asks.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
        // A controller pauses all its streams, longer and longer, for every error of one of them. These
        // try again by themselves, each in its own time.
        .filter_map(|change| async {
            if let Err(error) = &change {
                tracing::warn!(%error, "a watch was interrupted");
            }
            change.ok().map(Ok)
        })
        .boxed();
    (store, changes)
}
