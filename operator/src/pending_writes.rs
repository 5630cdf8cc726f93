//! The operator's own writes that its watches may not show yet.
//!
//! A watch delivers a write a little later than the response to it arrives. Until then these records stand
//! in for the stored objects. Losing them is harmless: everything can be read again.

use std::time::Instant;

use kube::{api::DynamicObject, runtime::reflector::Store};
use phase6_crds::Phase6ServiceStatus;
use phase6_policy::PolicyDocument;

use crate::{per_resource::PerResource, resource::ResourceVersion};

/// Policy that this process published last for a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedPolicy {
    /// Published document.
    pub document: PolicyDocument,
    /// Version of the `ConfigMap` after the write.
    pub version: ResourceVersion,
    /// Time of the write.
    pub at: Instant,
}

/// Status that this process wrote last for a resource.
#[derive(Clone)]
struct WrittenStatus {
    status: Phase6ServiceStatus,
    /// Version of the resource after the write.
    version: ResourceVersion,
}

#[derive(Default)]
struct LastWrites {
    policy: Option<PublishedPolicy>,
    status: Option<WrittenStatus>,
}

/// Last writes of each resource's policy and status.
pub struct PendingWrites {
    writes: PerResource<LastWrites>,
}

impl PendingWrites {
    /// Creates an empty record for the given resources.
    pub fn new(resources: Store<DynamicObject>) -> Self {
        Self { writes: PerResource::new(resources) }
    }

    /// Returns the policy that was published last.
    pub fn policy(&self, object: &DynamicObject) -> Option<PublishedPolicy> {
        self.writes.with(object, |last| last.policy.clone())
    }

    /// Records a published policy.
    pub fn record_policy(&self, object: &DynamicObject, policy: PublishedPolicy) {
        self.writes.with(object, |last| last.policy = Some(policy));
    }

    /// Returns the newest known status: the one that `object` carries, or the one written since.
    pub fn status(&self, object: &DynamicObject) -> Option<Phase6ServiceStatus> {
        let shown = ResourceVersion::of(object);
        match self.writes.with(object, |last| last.status.clone()) {
            Some(WrittenStatus { status, version }) if version > shown => Some(status),
            // A status that cannot be parsed counts as none and is replaced.
            _ => serde_json::from_value(object.data["status"].clone()).ok(),
        }
    }

    /// Records a written status and the version of the resource after the write.
    pub fn record_status(
        &self,
        object: &DynamicObject,
        status: Phase6ServiceStatus,
        version: ResourceVersion,
    ) {
        self.writes.with(object, |last| last.status = Some(WrittenStatus { status, version }));
    }
}
