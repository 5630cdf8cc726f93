//! Values that the operator keeps in memory for each resource.

use std::collections::HashMap;

use kube::{
    api::DynamicObject,
    runtime::reflector::{ObjectRef, Store},
};
use parking_lot::Mutex;

use crate::resource::resource_api;

/// Number of entries beyond twice the number of resources at which entries of deleted resources are dropped.
const SPARE_ENTRIES: usize = 64;

/// Map from resources to values. Its size is bounded by the number of resources.
pub struct PerResource<T> {
    values: Mutex<HashMap<ObjectRef<DynamicObject>, T>>,
    resources: Store<DynamicObject>,
}

impl<T: Default> PerResource<T> {
    /// Creates an empty map. Values of resources that left the cache are dropped in time.
    pub fn new(resources: Store<DynamicObject>) -> Self {
        Self { values: Mutex::default(), resources }
    }

    /// Reads or changes the value of a resource, which is the default if none was set.
    pub fn with<R>(&self, object: &DynamicObject, act: impl FnOnce(&mut T) -> R) -> R {
        let key = ObjectRef::from_obj_with(object, resource_api());
        let mut values = self.values.lock();
        if values.len() > 2 * self.resources.len() + SPARE_ENTRIES {
            values.retain(|key, _| self.resources.get(key).is_some());
        }
        act(values.entry(key).or_default())
    }
}
