//! The published policy: one `ConfigMap`, watched by its name.
//!
//! The watch is the quick path, the mounted file the slow one. Both carry the same documents, and the
//! enforcer takes the newest, whichever path it came by. Without an object to watch nothing ever changes.

use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Client,
    runtime::watcher::{Config, Event},
};
use phase6_policy::PolicyDocument;

use super::{Events, watch};

/// Longest wait for the object when the service starts.
const FIRST: Duration = Duration::from_secs(5);

/// The watched object.
pub(super) struct PolicyObject {
    name: String,
    events: Option<Events<ConfigMap>>,
}

impl PolicyObject {
    /// Watches the object called `name` in this pod's namespace, if a name and a client are given.
    pub(super) fn watch(name: Option<&str>, client: Option<&Client>) -> Self {
        let (Some(name), Some(client)) = (name, client) else {
            return Self { name: String::new(), events: None };
        };
        let selection = Config::default().fields(&format!("metadata.name={name}"));
        Self { name: format!("ConfigMap {name}"), events: Some(watch(client.clone(), selection)) }
    }

    /// Returns the name of the object, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the current document of the object; `None` if the object does not exist or the API server does
    /// not respond.
    pub(super) async fn current(&mut self) -> Option<Vec<u8>> {
        let Some(events) = &mut self.events else { return None };
        let first = async {
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => return document(object),
                    Ok(Event::InitDone | Event::Delete(_)) => return None,
                    Ok(Event::Init) => {}
                    Err(error) => tracing::warn!(%error, "failed to watch the policy"),
                }
            }
            None
        };
        let found = tokio::time::timeout(FIRST, first).await;
        if found.is_err() {
            tracing::warn!(
                object = self.name,
                "the API server does not respond; starting with the mounted policy"
            );
        }
        found.ok().flatten()
    }

    /// Waits for the next document. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Vec<u8> {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    if let Some(document) = document(object) {
                        return document;
                    }
                }
                // The last policy stays in force without its object.
                Ok(Event::Delete(_)) => tracing::warn!(object = self.name, "the policy object was deleted"),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "failed to watch the policy"),
            }
        }
        std::future::pending().await
    }
}

fn document(object: ConfigMap) -> Option<Vec<u8>> {
    object.data?.remove(PolicyDocument::KEY).map(String::into_bytes)
}
