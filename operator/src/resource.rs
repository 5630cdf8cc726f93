//! Identity and versions of resources and of the objects that belong to them.
//!
//! Plain data; knows nothing of clients or watches.

use kube::{
    ResourceExt,
    api::{ApiResource, DynamicObject},
};
use phase6_crds::Phase6Service;
use serde_json::Value;

/// Returns group, version and names of `Phase6Service` in the API.
pub fn resource_api() -> ApiResource {
    ApiResource::erase::<Phase6Service>(&())
}

/// Identity of one resource, which owns the objects that are made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceId {
    /// Namespace of the resource and of its objects.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// Uid, which differs from that of an earlier resource of the same name.
    pub uid: String,
}

impl ResourceId {
    /// Returns the identity of a stored resource.
    pub fn of(object: &DynamicObject) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }
    }
}

/// Version of a stored object. A greater version is newer: API servers count them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceVersion(u64);

impl ResourceVersion {
    /// Returns the version of `object`, or the lowest one if it carries none.
    pub fn of(object: &impl ResourceExt) -> Self {
        Self::parse(object.resource_version().as_deref())
    }

    /// Returns the version of an object in JSON, or the lowest one if it carries none.
    pub fn of_json(object: &Value) -> Self {
        Self::parse(object["metadata"]["resourceVersion"].as_str())
    }

    /// Returns the version as a write names it for its precondition, or `None` for the lowest one, which
    /// no stored object has.
    pub fn precondition(self) -> Option<String> {
        (self.0 > 0).then(|| self.0.to_string())
    }

    fn parse(text: Option<&str>) -> Self {
        Self(text.and_then(|text| text.parse().ok()).unwrap_or(0))
    }
}
