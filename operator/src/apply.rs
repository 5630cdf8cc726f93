//! Apply stage: makes the stored objects match the built ones, by as few writes as possible.
//!
//! The policy's `ConfigMap` is not applied here but by [`publish`](crate::publish).

use serde_json::Value;

use crate::{
    build::{Kind, Object},
    cluster_view::ClusterView,
    drift::{self, Drift},
    error::ReconcileError,
    events::ResourceEvent,
    writer::Writer,
};

/// Field manager of the number of replicas.
const REPLICAS_MANAGER: &str = "phase6-operator/replicas";

/// Outcome of the stage, complete or up to an error.
#[derive(Default)]
pub struct Applied {
    /// Deployment as it was written, if it was.
    pub deployment: Option<Value>,
    /// Events about deleted and repaired objects.
    pub events: Vec<ResourceEvent>,
    /// Error that ended the stage early.
    pub error: Option<ReconcileError>,
}

/// Deletes objects that are no longer desired, then applies those that differ.
///
/// `replicas` is the part of the Deployment with the number of replicas, unless an autoscaler sets it.
/// `was_reported` is true if an earlier reconcile made the objects, so that a missing one was deleted.
pub async fn apply(
    writer: Writer<'_>,
    view: &ClusterView,
    desired: &[Object],
    replicas: Option<&Value>,
    was_reported: bool,
) -> Applied {
    let mut applied = Applied::default();
    let result = apply_all(writer, view, desired, replicas, was_reported, &mut applied).await;
    applied.error = result.err();
    applied
}

async fn apply_all(
    writer: Writer<'_>,
    view: &ClusterView,
    desired: &[Object],
    replicas: Option<&Value>,
    was_reported: bool,
    applied: &mut Applied,
) -> Result<(), ReconcileError> {
    // An autoscaler must be deleted before the number of replicas is set.
    applied.events.extend(prune(writer, view, desired).await?);
    for object in desired {
        let EnsureResult { drift, stored } = ensure(writer, view, object).await?;
        if object.kind == Kind::Deployment {
            applied.deployment = stored;
        }
        applied.events.extend(match drift {
            Drift::Modified { path } => Some(ResourceEvent::restored(object, &path)),
            Drift::Missing if was_reported => Some(ResourceEvent::recreated(object)),
            Drift::None | Drift::Missing | Drift::Outdated => None,
        });
    }
    if let Some(replicas) = replicas
        && let Some(stored) = set_replicas(writer, view, replicas).await?
    {
        applied.deployment = Some(stored);
    }
    Ok(())
}

/// Outcome for one object.
struct EnsureResult {
    /// Drift that was found and corrected.
    drift: Drift,
    /// Object as it was written, if it was.
    stored: Option<Value>,
}

/// Makes the stored object match the desired one.
async fn ensure(
    writer: Writer<'_>,
    view: &ClusterView,
    desired: &Object,
) -> Result<EnsureResult, ReconcileError> {
    let live = view.object(desired.kind, &writer.owner().namespace, &desired.name);
    if let Some(live) = &live {
        writer.check_ownership(desired, live)?;
    }
    let drift = drift::detect(desired, live.as_ref());
    match drift {
        Drift::None => return Ok(EnsureResult { drift, stored: None }),
        Drift::Missing => writer.check_name_free(desired).await?,
        Drift::Outdated | Drift::Modified { .. } => {}
    }
    let Object { kind, name, .. } = desired;
    let stored = writer.apply_object(*kind, name, kind.manager(), &drift::with_fingerprint(desired)).await?;
    Ok(EnsureResult { drift, stored: serde_json::to_value(stored).ok() })
}

/// Deletes objects of the resource that are no longer desired, and returns an event for each.
async fn prune(
    writer: Writer<'_>,
    view: &ClusterView,
    desired: &[Object],
) -> Result<Vec<ResourceEvent>, ReconcileError> {
    let mut events = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::ConfigMap) {
        for name in view.owned_names(kind, writer.owner()) {
            let is_desired = desired.iter().any(|object| object.kind == kind && object.name == name);
            if !is_desired && writer.delete(kind, &name).await? {
                events.push(ResourceEvent::removed(kind, &name));
            }
        }
    }
    Ok(events)
}

/// Sets the number of replicas if it differs, and returns the Deployment as it was written.
async fn set_replicas(
    writer: Writer<'_>,
    view: &ClusterView,
    desired: &Value,
) -> Result<Option<Value>, ReconcileError> {
    let owner = writer.owner();
    let live = view.object(Kind::Deployment, &owner.namespace, &owner.name);
    if live.is_some_and(|live| live["spec"]["replicas"] == desired["spec"]["replicas"]) {
        return Ok(None);
    }
    let stored = writer.apply_object(Kind::Deployment, &owner.name, REPLICAS_MANAGER, desired).await?;
    Ok(serde_json::to_value(stored).ok())
}
