//! The policy as the API server has it: one `ConfigMap`, watched by its name.
//!
//! This is the quick way; the mounted file is the other. Both bring the same documents, and the
//! enforcer takes the newest, whichever way it came. Where there is no object to watch, nothing ever
//! changes.

use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Client,
    runtime::watcher::{Config, Event},
};
use phase6_policy::PolicyDocument;

use super::cluster::{Changes, watch};

/// Longest wait for the object when the service starts.
const FIRST: Duration = Duration::from_secs(5);

/// Follows the object.
pub(super) struct PolicyObject {
    name: String,
    changes: Option<Changes<ConfigMap>>,
}

impl PolicyObject {
    /// Follows the object of this name in this pod's namespace; without a name, nothing.
    pub(super) fn follow(name: Option<&str>, client: Option<&Client>) -> Self {
        let (Some(name), Some(client)) = (name, client) else {
            return Self { name: String::new(), changes: None };
        };
        let only = Config::default().fields(&format!("metadata.name={name}"));
        Self { name: format!("ConfigMap {name}"), changes: Some(watch(client.clone(), only)) }
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
