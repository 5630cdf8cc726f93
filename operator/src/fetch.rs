//! Fetch stage: everything that a reconcile starts from, read from the watches and from pending writes.
//!
//! Makes no call to the API server.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use phase6_crds::Phase6ServiceStatus;
use serde_json::Value;

use crate::{
    build::{self, Kind},
    cluster_view::ClusterView,
    pending_writes::{PendingWrites, PublishedPolicy},
    resource::ResourceId,
};

/// State of a resource at the start of a reconcile.
pub struct ResourceState<'a> {
    /// Resource as it is stored, not validated yet.
    pub object: &'a DynamicObject,
    /// Identity of the resource.
    pub id: ResourceId,
    /// Newest known status of the resource.
    pub status: Option<Phase6ServiceStatus>,
    /// Pods of the resource.
    pub pods: Vec<Arc<Pod>>,
    /// `ConfigMap` of the policy, as the watch shows it.
    pub config_map: Option<Value>,
    /// Policy that this process published last.
    pub last_published: Option<PublishedPolicy>,
}

impl ResourceState<'_> {
    /// Returns the generation of the spec.
    pub fn generation(&self) -> Option<i64> {
        self.object.metadata.generation
    }

    /// Returns true if an earlier reconcile reported a status for this generation.
    pub fn was_reported(&self) -> bool {
        self.status.as_ref().and_then(|status| status.observed_generation) == self.generation()
    }
}

/// Reads the state of a resource.
pub fn fetch<'a>(
    view: &ClusterView,
    pending: &PendingWrites,
    object: &'a DynamicObject,
) -> ResourceState<'a> {
    let id = ResourceId::of(object);
    ResourceState {
        status: pending.status(object),
        pods: view.pods(&id.namespace, &id.name),
        config_map: view.object(Kind::ConfigMap, &id.namespace, &build::config_map_name(&id.name)),
        last_published: pending.policy(object),
        object,
        id,
    }
}
