//! Publishing of the policy, which determines when an edit takes effect: it is built and applied first.
//!
//! Revisions of a resource only grow, and no two policies carry the same revision: a write names the
//! version of the `ConfigMap` that it replaces, and fails with a conflict if that is not the stored one.
//! This holds however far the watches lag, after a deletion of the `ConfigMap`, and across processes.

use std::time::Instant;

use jiff::Timestamp;
use kube::ResourceExt;
use phase6_crds::Phase6Service;
use phase6_policy::PolicyDocument;
use serde_json::Value;

use crate::{
    build::{self, Kind, Object},
    drift::{self, Drift},
    error::ReconcileError,
    events::ResourceEvent,
    fetch::ResourceState,
    pending_writes::{PendingWrites, PublishedPolicy},
    resource::ResourceVersion,
    writer::Writer,
};

/// Policy that is published when [`publish`] returns.
pub struct Published {
    /// Published document.
    pub document: PolicyDocument,
    /// Time of the write, if this process made it.
    pub at: Option<Instant>,
    /// Event about a new revision.
    pub event: Option<ResourceEvent>,
}

/// Publishes the policy of a resource unless it is published already.
///
/// `ready_replicas` is the number of replicas that divide a shared limit where they share no state.
///
/// # Errors
///
/// Fails if the API server refuses the write, if another writer was faster, or if the name of the
/// `ConfigMap` is taken.
pub async fn publish(
    writer: Writer<'_>,
    pending: &PendingWrites,
    resource: &Phase6Service,
    state: &ResourceState<'_>,
    ready_replicas: usize,
) -> Result<Published, ReconcileError> {
    let mut last = state.last_published.clone();
    if let Some(last) = &mut last
        && state.config_map.is_none()
        && !writer.exists(Kind::ConfigMap, &build::config_map_name(&state.id.name)).await?
    {
        // In the view, a deleted `ConfigMap` looks like one that the watch does not show yet.
        last.version = ResourceVersion::default();
    }
    let plan = plan(&PlanInput {
        resource,
        config_map: state.config_map.as_ref(),
        last: last.as_ref(),
        reported_revision: state
            .status
            .as_ref()
            .and_then(|status| status.policy.as_ref())
            .map_or(0, |policy| policy.revision as u64),
        replicas: ready_replicas.max(1) as u32,
        now: Timestamp::now(),
    });
    let document = plan.document;
    let Some(replaced_version) = plan.replaced_version else {
        let at = last.filter(|last| last.document == document).map(|last| last.at);
        return Ok(Published { document, at, event: None });
    };

    if let Some(live) = &state.config_map {
        writer.check_ownership(&plan.config_map, live)?;
    }
    let mut body = drift::with_fingerprint(&plan.config_map);
    match replaced_version.precondition() {
        Some(version) => body["metadata"]["resourceVersion"] = version.into(),
        None => writer.check_name_free(&plan.config_map).await?,
    }
    let Object { kind, name, .. } = &plan.config_map;
    let stored = writer.apply_object(*kind, name, kind.manager(), &body).await?;
    let at = Instant::now();
    let event = plan.is_new.then(|| {
        let id = &state.id;
        tracing::info!(
            namespace = id.namespace,
            name = id.name,
            revision = document.revision,
            "policy published"
        );
        ResourceEvent::policy_published(plan.replaced.as_ref(), &document)
    });
    let version = ResourceVersion::of(&stored);
    pending.record_policy(state.object, PublishedPolicy { document: document.clone(), version, at });
    Ok(Published { document, at: Some(at), event })
}

/// Facts that decide which policy to publish.
struct PlanInput<'a> {
    resource: &'a Phase6Service,
    /// `ConfigMap` as the watch shows it.
    config_map: Option<&'a Value>,
    /// Policy that this process published last.
    last: Option<&'a PublishedPolicy>,
    /// Revision in the status of the resource.
    reported_revision: u64,
    /// Number of replicas that divide a shared limit.
    replicas: u32,
    now: Timestamp,
}

/// Policy to publish, and the write that it takes.
struct Plan {
    document: PolicyDocument,
    /// Desired `ConfigMap`, which holds the document.
    config_map: Object,
    /// Published document of the same resource, if there is one.
    replaced: Option<PolicyDocument>,
    /// True if the document is not the published one.
    is_new: bool,
    /// Version of the `ConfigMap` that the write replaces, or `None` if no write is needed.
    replaced_version: Option<ResourceVersion>,
}

/// Decides which policy to publish. Pure.
fn plan(input: &PlanInput<'_>) -> Plan {
    let shown_version = input.config_map.map_or(ResourceVersion::default(), ResourceVersion::of_json);
    let unseen = input.last.filter(|last| last.version > shown_version);
    let stored = match unseen {
        Some(last) => Some(last.document.clone()),
        None => input.config_map.and_then(build::read_document),
    };
    let uid = input.resource.uid().unwrap_or_default();
    // An earlier resource of the same name may have left both.
    let replaced = stored.filter(|document| document.owner_uid == uid);
    let last = input.last.filter(|last| last.document.owner_uid == uid);

    let highest_revision =
        last.map_or(input.reported_revision, |last| last.document.revision.max(input.reported_revision));
    let mut document =
        build::next_document(input.resource, replaced.as_ref(), highest_revision, input.replicas, input.now);
    if replaced.is_none()
        && let Some(last) = last.filter(|last| last.document.policy == document.policy)
    {
        // The `ConfigMap` was deleted. Replicas already enforce this revision, so it is published again.
        document = last.document.clone();
    }

    let config_map = build::policy_config_map(input.resource, &document);
    let is_new = replaced.as_ref() != Some(&document);
    let is_stored =
        unseen.is_some() && !is_new || drift::detect(&config_map, input.config_map) == Drift::None;
    let replaced_version = (!is_stored).then(|| unseen.map_or(shown_version, |last| last.version));
    Plan { document, config_map, replaced, is_new, replaced_version }
}

#[cfg(test)]
mod tests;
