//! The API server as a pod sees it: the published policy and the endpoints of peers, both watched.

mod endpoint_slices;
mod policy_object;

use std::{fmt::Debug, time::Duration};

use backon::ExponentialBuilder;
use futures_util::{StreamExt, stream::BoxStream};
use kube::{
    Api, Client, Config, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, ExponentialBackoff, watcher},
    },
};
use phase6_catalog::Service;
use serde::de::DeserializeOwned;

use self::policy_object::PolicyObject;
use super::{ServeOptions, peers::Peers};
use crate::RunError;

/// Time after which the API server ends a watch. A watch that has not ended five seconds later is dead.
const WATCH_SECONDS: u32 = 25;
/// First and longest pause between attempts to watch.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Longest time to connect, and to send a request.
const CONNECT: Duration = Duration::from_secs(5);

/// Events of a watch.
type Events<K> = BoxStream<'static, Result<Event<K>, watcher::Error>>;

/// The watches of a pod.
pub(super) struct Cluster {
    policy: PolicyObject,
}

impl Cluster {
    /// Starts the watches that the options ask for. Without any there is no connection.
    pub(super) async fn connect(
        options: &ServeOptions,
        service: &Service,
        peers: &Peers,
    ) -> Result<Self, RunError> {
        let services = if options.follow_peers { endpoint_slices::services(service, peers) } else { vec![] };
        let client = match (&options.policy_object, services.is_empty()) {
            (Some(name), _) => Some(client(&format!("--policy-object {name}")).await?),
            (None, false) => Some(client("--follow-peers").await?),
            (None, true) => None,
        };
        if let Some(client) = &client {
            // Until the process ends: requests in flight still call peers during a stop.
            tokio::spawn(endpoint_slices::follow(client.clone(), services));
        }
        Ok(Self { policy: PolicyObject::watch(options.policy_object.as_deref(), client.as_ref()) })
    }

    /// Returns the name of the watched object, for messages.
    pub(super) fn policy_name(&self) -> &str {
        self.policy.name()
    }

    /// Returns the published document; `None` if there is none or the API server does not respond.
    pub(super) async fn current_policy(&mut self) -> Option<Vec<u8>> {
        self.policy.current().await
    }

    /// Waits for the next version of the document. Cancel-safe.
    pub(super) async fn changed_policy(&mut self) -> Vec<u8> {
        self.policy.changed().await
    }
}

/// Creates a client of the cluster that this process runs in; `option` is the one that requires it.
async fn client(option: &str) -> Result<Client, RunError> {
    let unusable =
        |error: String| RunError::Usage(format!("{option} requires a Kubernetes cluster: {error}"));
    let mut config = Config::infer().await.map_err(|error| unusable(error.to_string()))?;
    config.connect_timeout = Some(CONNECT);
    // Longer than a watch, whose response stays open until it ends.
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 5));
    config.write_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| unusable(error.to_string()))
}

/// Watches objects of this pod's namespace until cancelled.
fn watch<K>(client: Client, selection: watcher::Config) -> Events<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(BACKOFF.0)
        .with_max_delay(BACKOFF.1)
        .with_jitter()
        .without_max_times();
    watcher(Api::<K>::default_namespaced(client), selection.timeout(WATCH_SECONDS))
        .backoff(ExponentialBackoff::from(backoff))
        .boxed()
}
