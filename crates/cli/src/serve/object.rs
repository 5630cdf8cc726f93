//! The policy as the API server has it: one `ConfigMap`, watched by its name.
//!
//! This is the quick way; the mounted file is the other. Both bring the same documents, and the
//! enforcer takes the newest, whichever way it came. Where there is no object to watch, nothing ever
//! changes.

use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::{StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, ExponentialBackoff, watcher},
    },
};

use phase6_policy::PolicyDocument;

use crate::ending::Ending;

/// A watch that is not ended within this time, plus five seconds, is dead.
const WATCH_SECONDS: u32 = 25;
/// Pauses between attempts to watch: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Longest wait for the object when the service starts.
const FIRST: Duration = Duration::from_secs(5);

/// Follows the object.
pub(super) struct PolicyObject {
    name: String,
    changes: Option<BoxStream<'static, Result<Event<ConfigMap>, watcher::Error>>>,
}

impl PolicyObject {
    /// Follows the object of this name in this pod's namespace; without a name, nothing.
    pub(super) async fn follow(name: Option<&str>) -> Result<Self, Ending> {
        let Some(name) = name else { return Ok(Self { name: String::new(), changes: None }) };
        let no_cluster = |error: String| {
            Ending::Usage(format!("--policy-object {name} needs a cluster to watch it in: {error}"))
        };
        let mut config = Config::infer().await.map_err(|error| no_cluster(error.to_string()))?;
        config.connect_timeout = Some(FIRST);
        // Longer than a watch lasts, which begins with an answer too.
        config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 5));
        config.write_timeout = Some(FIRST);
        let client = Client::try_from(config).map_err(|error| no_cluster(error.to_string()))?;
        let pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSES.0)
            .with_max_delay(PAUSES.1)
            .with_jitter()
            .without_max_times();
        let only = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
        let changes = watcher(Api::<ConfigMap>::default_namespaced(client), only)
            .backoff(ExponentialBackoff::from(pauses))
            .boxed();
        Ok(Self { name: format!("ConfigMap {name}"), changes: Some(changes) })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it holds now; none if it does not exist, or nobody can say.
    pub(super) async fn first(&mut self) -> Option<Vec<u8>> {
        let Some(changes) = &mut self.changes else { return None };
        let look = async {
            while let Some(event) = changes.next().await {
                match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => return text(object),
                    Ok(Event::InitDone | Event::Delete(_)) => return None,
                    Ok(Event::Init) => {}
                    Err(error) => tracing::warn!(%error, "the policy object cannot be watched"),
                }
            }
            None
        };
        let found = tokio::time::timeout(FIRST, look).await;
        if found.is_err() {
            tracing::warn!(
                object = self.name,
                "the API server does not answer; beginning with the mounted policy"
            );
        }
        found.ok().flatten()
    }

    /// Waits for another text. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Vec<u8> {
        let Some(changes) = &mut self.changes else { return std::future::pending().await };
        while let Some(event) = changes.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    if let Some(text) = text(object) {
                        return text;
                    }
                }
                // The last policy stays, whatever becomes of the object.
                Ok(Event::Delete(_)) => tracing::warn!(object = self.name, "the policy object was deleted"),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the policy object cannot be watched"),
            }
        }
        std::future::pending().await
    }
}

fn text(object: ConfigMap) -> Option<Vec<u8>> {
    object.data?.remove(PolicyDocument::KEY).map(String::into_bytes)
}
