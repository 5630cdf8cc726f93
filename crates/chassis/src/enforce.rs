//! The active policy of a service: the application of documents, and the state that `/policyz` shows.
//!
//! A document is applied as a whole or not at all, with one pointer swap. A request keeps the policy that it
//! began with, and its response names the revision of that policy.

use std::{collections::VecDeque, sync::Arc};

use http::HeaderValue;
use jiff::Timestamp;
use parking_lot::Mutex;
use phase6_breaker::Settings;
use phase6_cache::CachePolicy;
use phase6_live::Live;
use phase6_policy::{Policy, PolicyDocument};
use phase6_ratelimit::Limits;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Clock, operations::Registrar};

/// Owners of earlier documents that are remembered. A document of theirs can only arrive while a mounted
/// file still lags behind, which is about a minute.
const MAX_FORMER_OWNERS: usize = 16;

/// A policy document, prepared for the layers that enforce it.
#[derive(Debug)]
pub struct ActivePolicy {
    /// Document that the other fields are made from.
    pub document: PolicyDocument,
    /// Rate limit, if the policy has one.
    pub limits: Option<Limits>,
    /// Cache section, if the policy has one.
    pub cache: Option<CachePolicy>,
    /// Revision, as the value of the header `phase6-policy`.
    pub(crate) revision: HeaderValue,
    applied_at: Timestamp,
}

impl ActivePolicy {
    fn new(document: PolicyDocument, is_shared: bool, applied_at: Timestamp) -> Self {
        let policy = &document.policy;
        Self {
            limits: policy.rate_limit.as_ref().map(|limit| Limits::new(limit, document.replicas, is_shared)),
            cache: policy.cache.as_ref().map(CachePolicy::from),
            revision: HeaderValue::from(document.revision),
            applied_at,
            document,
        }
    }
}

/// Holder of the active policy of one service. Clones share it.
#[derive(Clone)]
pub struct Enforcer {
    inner: Arc<Inner>,
}

struct Inner {
    /// True if replicas share state.
    is_shared: bool,
    clock: Clock,
    policy: Live<ActivePolicy>,
    breaker: Live<Settings>,
    /// Error of the newest document, if it was rejected.
    error: Mutex<Option<String>>,
    /// Owners of earlier documents, the latest last. Also serializes calls of `apply`.
    former_owners: Mutex<VecDeque<String>>,
}

/// Result of [`Enforcer::apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// The document is active now.
    Applied,
    /// A newer document, or this one, was active already.
    Unchanged,
}

/// State of the policy, as `/policyz` shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    /// UID of the resource that the active policy was compiled from.
    pub uid: String,
    /// Active revision; 0 if no document was received yet.
    pub revision: u64,
    /// Generation of the resource that the policy was compiled from.
    pub generation: i64,
    /// Fingerprint of the policy.
    pub hash: String,
    /// Time at which the document was published.
    pub published_at: String,
    /// Time at which the document became active in this replica.
    #[schema(value_type = String)]
    pub applied_at: Timestamp,
    /// Time since `appliedAt`, in milliseconds.
    pub age_ms: i64,
    /// Error of the newest document, if it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Default for Enforcer {
    /// Creates the enforcer of a replica that shares no state with others.
    fn default() -> Self {
        Self::new(false)
    }
}

impl Enforcer {
    /// Creates an enforcer of the default policy.
    ///
    /// `is_shared` is true if replicas share state; otherwise each replica enforces its share of a limit of
    /// scope `Shared`.
    pub fn new(is_shared: bool) -> Self {
        Self::with_clock(is_shared, Clock::default())
    }

    /// Like [`Enforcer::new`], with the clock that dates policies.
    pub fn with_clock(is_shared: bool, clock: Clock) -> Self {
        let document = PolicyDocument {
            owner_uid: String::new(),
            revision: 0,
            generation: 0,
            hash: String::new(),
            published_at: String::new(),
            replicas: 1,
            policy: Policy::default(),
        };
        Self {
            inner: Arc::new(Inner {
                breaker: Live::new(Settings::from(&document.policy.circuit_breaker)),
                policy: Live::new(ActivePolicy::new(document, is_shared, clock.now())),
                is_shared,
                clock,
                error: Mutex::default(),
                former_owners: Mutex::default(),
            }),
        }
    }

    /// Applies a document if it supersedes the active one. Clears the error of a rejected document, unless
    /// this one is older than the active one.
    ///
    /// A document of a former owner is older than any of the current owner's, even with a higher revision: of
    /// the two ways that documents take, the slower one may deliver it late.
    pub fn apply(&self, document: PolicyDocument) -> ApplyOutcome {
        let mut former_owners = self.inner.former_owners.lock();
        let active = self.inner.policy.load();
        if former_owners.contains(&document.owner_uid) {
            return ApplyOutcome::Unchanged;
        }
        if !document.supersedes(&active.document) {
            // The active document was published again, so the rejected one no longer exists.
            if document.revision == active.document.revision {
                *self.inner.error.lock() = None;
            }
            return ApplyOutcome::Unchanged;
        }
        *self.inner.error.lock() = None;
        if document.owner_uid != active.document.owner_uid {
            former_owners.push_back(active.document.owner_uid.clone());
            if former_owners.len() > MAX_FORMER_OWNERS {
                former_owners.pop_front();
            }
        }
        self.inner.breaker.set(Settings::from(&document.policy.circuit_breaker));
        let now = self.inner.clock.now();
        self.inner.policy.set(ActivePolicy::new(document, self.inner.is_shared, now));
        ApplyOutcome::Applied
    }

    /// Records that the newest document was rejected. The active policy stays active.
    pub fn reject(&self, error: String) {
        *self.inner.error.lock() = Some(error);
    }

    /// Returns the active policy.
    pub fn active_policy(&self) -> Arc<ActivePolicy> {
        self.inner.policy.get()
    }

    /// Returns the settings of circuit breakers in the active policy, which follow its changes.
    pub fn breaker(&self) -> Live<Settings> {
        self.inner.breaker.clone()
    }

    /// True if replicas share state.
    pub fn is_shared(&self) -> bool {
        self.inner.is_shared
    }

    /// Returns the state that `/policyz` shows.
    pub fn state(&self) -> PolicyState {
        let active = self.active_policy();
        let document = &active.document;
        PolicyState {
            uid: document.owner_uid.clone(),
            revision: document.revision,
            generation: document.generation,
            hash: document.hash.clone(),
            published_at: document.published_at.clone(),
            applied_at: active.applied_at,
            age_ms: self.inner.clock.now().duration_since(active.applied_at).as_millis() as i64,
            error: self.inner.error.lock().clone(),
        }
    }

    /// Registers the metric series of the policy.
    pub(crate) fn register(&self, registrar: &Registrar<'_>) {
        let enforcer = self.clone();
        registrar.gauge("phase6_policy_revision", "Revision of the active policy", move || {
            enforcer.state().revision as f64
        });
        let enforcer = self.clone();
        registrar.gauge(
            "phase6_policy_refused",
            "1 if the newest policy was rejected and the one before it is still active, else 0",
            move || f64::from(u8::from(enforcer.state().error.is_some())),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn document(uid: &str, revision: u64, capacity: i64) -> PolicyDocument {
        serde_json::from_value(json!({
            "ownerUid": uid, "revision": revision, "generation": 1, "hash": "h", "publishedAt": "",
            "policy": {"rateLimit": {"capacity": capacity, "refillPerSecond": 1}},
        }))
        .unwrap()
    }

    fn capacity(enforcer: &Enforcer) -> i64 {
        enforcer.active_policy().document.policy.rate_limit.as_ref().unwrap().capacity
    }

    #[test]
    fn the_newest_revision_of_the_newest_owner_is_active() {
        let enforcer = Enforcer::default();
        assert_eq!(enforcer.apply(document("a", 2, 20)), ApplyOutcome::Applied);
        assert_eq!(enforcer.apply(document("a", 1, 10)), ApplyOutcome::Unchanged);
        assert_eq!(capacity(&enforcer), 20);
        assert_eq!(enforcer.apply(document("b", 1, 30)), ApplyOutcome::Applied, "a new owner starts at 1");
        assert_eq!(capacity(&enforcer), 30);
        assert_eq!(enforcer.apply(document("a", 3, 40)), ApplyOutcome::Unchanged, "a former owner, late");
        assert_eq!(capacity(&enforcer), 30);
    }

    #[test]
    fn a_rejected_document_leaves_the_active_one_and_shows_its_error() {
        let enforcer = Enforcer::default();
        enforcer.apply(document("a", 2, 10));
        enforcer.reject("capacity is -5".into());
        let error = || enforcer.state().error;
        assert_eq!((capacity(&enforcer), enforcer.state().revision), (10, 2));
        enforcer.apply(document("a", 1, 99));
        assert_eq!(error().as_deref(), Some("capacity is -5"), "an older document changes nothing");
        enforcer.apply(document("a", 2, 10));
        assert_eq!(error(), None, "the active document was published again");
        enforcer.reject("capacity is -5".into());
        assert_eq!(enforcer.apply(document("a", 3, 20)), ApplyOutcome::Applied);
        assert_eq!((error(), capacity(&enforcer)), (None, 20));
    }

    #[test]
    fn the_age_of_a_policy_follows_the_clock() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let enforcer = Enforcer::with_clock(false, clock.clone());
        clock.advance(Duration::from_secs(5));
        enforcer.apply(document("a", 1, 10));
        clock.advance(Duration::from_millis(70));
        let state = enforcer.state();
        assert_eq!((state.applied_at.as_second(), state.age_ms), (5, 70));
    }
}
