//! The API server as the watches of a pod see it: one client with its time limits, and the pauses after
//! an error.

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
use serde::de::DeserializeOwned;

use crate::ending::Ending;

/// A watch that is not ended within this time, plus five seconds, is dead.
const WATCH_SECONDS: u32 = 25;
/// Pauses between attempts to watch: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Longest time to connect, and to send a question.
const CONNECT: Duration = Duration::from_secs(5);

/// What a watch brings.
pub(super) type Changes<K> = BoxStream<'static, Result<Event<K>, watcher::Error>>;

/// A client of the cluster that this program runs in, which `option` asks for.
pub(super) async fn client(option: &str) -> Result<Client, Ending> {
    let no_cluster = |error: String| Ending::Usage(format!("{option} needs a cluster to watch in: {error}"));
    let mut config = Config::infer().await.map_err(|error| no_cluster(error.to_string()))?;
    config.connect_timeout = Some(CONNECT);
    // Longer than a watch lasts, which begins with an answer too.
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 5));
    config.write_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| no_cluster(error.to_string()))
}

/// Follows objects of this pod's namespace, for ever.
pub(super) fn watch<K>(client: Client, only: watcher::Config) -> Changes<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times();
    watcher(Api::<K>::default_namespaced(client), only.timeout(WATCH_SECONDS))
        .backoff(ExponentialBackoff::from(pauses))
        .boxed()
}
