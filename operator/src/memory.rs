//! What the operator knows of resources beyond what the watches have shown yet.
//!
//! A watch tells of a write a little later than the write's own answer. What is kept here bridges that
//! moment; all of it may be lost, because all of it can be read again.

use std::{collections::HashMap, time::Instant};

use kube::{
    api::DynamicObject,
    runtime::reflector::{ObjectRef, Store},
};
use parking_lot::Mutex;
use phase6_crds::Phase6ServiceStatus;
use phase6_policy::PolicyDocument;

use crate::{apply::Version, world::resource_api};

/// What is known of one resource.
#[derive(Clone, Default)]
pub struct Memory {
    /// What was published last, the version of its object, and when.
    pub published: Option<(PolicyDocument, Version, Instant)>,
    /// The status that was written last, and the resource's version with it.
    pub status: Option<(Phase6ServiceStatus, Version)>,
    /// The uid and the generation that were found to keep the rules.
    pub valid: Option<(String, i64)>,
    /// Failures since the last success.
    pub failures: u32,
}

/// What is known of all of them. Bounded by their number.
pub struct Memories {
    kept: Mutex<HashMap<ObjectRef<DynamicObject>, Memory>>,
    resources: Store<DynamicObject>,
}

impl Memories {
    /// Keeps what is known of these resources.
    pub fn of(resources: Store<DynamicObject>) -> Self {
        Self { kept: Mutex::default(), resources }
    }

    /// Reads or changes what is known of a resource.
    pub fn with<R>(&self, object: &DynamicObject, act: impl FnOnce(&mut Memory) -> R) -> R {
        let key = ObjectRef::from_obj_with(object, resource_api());
        let mut kept = self.kept.lock();
        // Those that are gone are forgotten now and then.
        if kept.len() > 2 * self.resources.len() + 64 {
            kept.retain(|key, _| self.resources.get(key).is_some());
        }
        act(kept.entry(key).or_default())
    }

    /// The newest status: the one that the watch showed, or the one that was written since.
    pub fn newest_status(
        &self,
        object: &DynamicObject,
        shown: Option<Phase6ServiceStatus>,
    ) -> Option<Phase6ServiceStatus> {
        let seen = Version::of(object);
        match self.with(object, |memory| memory.status.clone()) {
            Some((status, version)) if version > seen => Some(status),
            _ => shown,
        }
    }
}
