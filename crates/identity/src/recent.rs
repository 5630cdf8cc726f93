//! Credentials that were verified recently, so that a client or a service that sends the same one again costs a
//! lookup instead of a hash. Bounded; only valid credentials are remembered, and the whole credential is compared.

use std::hash::Hash;

use foldhash::fast::RandomState;
use quick_cache::{
    Equivalent, UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

/// Number of credentials that are remembered.
const CAPACITY: usize = 16_384;

/// Values by recently used keys.
pub(crate) struct Recent<K, V> {
    cache: Cache<K, V, UnitWeighter, RandomState>,
}

impl<K: Hash + Eq, V: Clone> Default for Recent<K, V> {
    fn default() -> Self {
        let hasher = RandomState::default();
        Self {
            cache: Cache::with(CAPACITY, CAPACITY as u64, UnitWeighter, hasher, DefaultLifecycle::default()),
        }
    }
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    pub(crate) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        self.cache.get(key)
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        self.cache.insert(key, value);
    }
}
