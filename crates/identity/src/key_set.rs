//! The accepted keys at one moment, and the lookup of a presented one.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use jiff::Timestamp;

use crate::{Digest, KeyId, Name, Principal, recent::Recent};

/// Result of authenticating a request by its API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The request is sent on behalf of this principal.
    Principal(Principal),
    /// A key is required, and the request has none or an unknown one.
    Rejected,
    /// The key is not in the key file, and the keys in the database have not been read yet.
    Unavailable,
}

/// Place where a key is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The key file.
    File,
    /// The database.
    Database,
}

impl KeySource {
    /// Returns the name of the place.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Database => "database",
        }
    }
}

/// A key as it can be listed: without its secret and its hash.
#[derive(Clone, Debug)]
pub struct ListedKey {
    /// ID of the key.
    pub id: KeyId,
    /// Principal of the key.
    pub principal: Principal,
    /// Time of its creation; `None` if the key file has it.
    pub created: Option<Timestamp>,
    /// Place where it is stored.
    pub source: KeySource,
}

/// The accepted keys at one moment. A change of the keys is a new set, which has verified none of them yet.
pub(crate) struct KeySet {
    /// Looked up by hash: the time of a lookup tells an attacker about hashes of guesses only, which do not
    /// lead to the key.
    keys: HashMap<Digest, ListedKey, RandomState>,
    pub(crate) policy: KeyPolicy,
    recent: Recent<Box<[u8]>, Principal>,
    anonymous: Principal,
}

/// Treatment of requests without an accepted key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyPolicy {
    /// No key has ever existed: everybody is [`Principal::anonymous`].
    Open,
    /// Requests without an accepted key are rejected.
    Required,
    /// The keys in the database have not been read: an unknown key can be one of them.
    Incomplete,
}

impl KeySet {
    pub(crate) fn new(keys: impl IntoIterator<Item = (Digest, ListedKey)>, policy: KeyPolicy) -> Self {
        let keys = keys.into_iter().collect();
        Self { keys, policy, recent: Recent::default(), anonymous: Principal::anonymous() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Identifies the principal of a presented key.
    pub(crate) fn authenticate(&self, key: Option<&[u8]>) -> Authentication {
        if self.policy == KeyPolicy::Open {
            return Authentication::Principal(self.anonymous.clone());
        }
        let Some(key) = key else { return Authentication::Rejected };
        if let Some(principal) = self.recent.get(key) {
            return Authentication::Principal(principal);
        }
        match self.keys.get(&Digest::of(key)) {
            Some(known) => {
                self.recent.insert(key.into(), known.principal.clone());
                Authentication::Principal(known.principal.clone())
            }
            None if self.policy == KeyPolicy::Incomplete => Authentication::Unavailable,
            None => Authentication::Rejected,
        }
    }

    /// Returns a key.
    pub(crate) fn get(&self, id: &KeyId) -> Option<&ListedKey> {
        self.keys.values().find(|key| key.id == *id)
    }

    /// Returns the keys of a tenant, or of all, by ID.
    pub(crate) fn list(&self, tenant: Option<&Name>) -> Vec<ListedKey> {
        let is_listed = |key: &&ListedKey| tenant.is_none_or(|tenant| *tenant == key.principal.tenant);
        let mut keys: Vec<_> = self.keys.values().filter(is_listed).cloned().collect();
        keys.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        keys
    }
}
