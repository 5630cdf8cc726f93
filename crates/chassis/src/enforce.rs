//! The policy in force: how a document becomes it, and what is told about it.
//!
//! A document is taken whole or not at all. It takes effect with one pointer swap; a request that
//! is under way keeps the policy it began with, and its answer says which one judged it.

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

/// A policy in the form that requests are held against.
#[derive(Debug)]
pub struct Judgement {
    /// The document it was made from.
    pub document: PolicyDocument,
    /// Its rate limit.
    pub limits: Option<Limits>,
    /// Its cache section.
    pub terms: Option<CachePolicy>,
    pub(crate) revision: HeaderValue,
    applied_at: Timestamp,
}

impl Judgement {
    fn new(document: PolicyDocument, shared: bool) -> Self {
        Self {
            limits: document
                .policy
                .rate_limit
                .as_ref()
                .map(|limit| Limits::new(limit, document.replicas, shared)),
            terms: document.policy.cache.as_ref().map(CachePolicy::from),
            revision: HeaderValue::from(document.revision),
            applied_at: Timestamp::now(),
            document,
        }
    }
}

/// Holds the policy in force of one service. Clones are handles to the same one.
#[derive(Clone)]
pub struct Enforcer {
    inner: Arc<Inner>,
}

struct Inner {
    /// There is state that replicas share.
    shared: bool,
    judgement: Live<Judgement>,
    breaker: Live<Settings>,
    error: Mutex<Option<String>>,
    /// Former owners, the latest last. Locked for one document at a time.
    former: Mutex<VecDeque<String>>,
}

/// So many former owners are remembered. A document of theirs can only be on its way for as long as
/// a mounted file takes to change.
const FORMER_OWNERS: usize = 16;

/// What was done with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in force.
    Now,
    /// A newer one, or the same, already was.
    Already,
}

/// What a service says about its policy, at `/policyz`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    /// Identity of the resource that the policy was compiled from.
    pub uid: String,
    /// The revision in force; 0: none was received yet.
    pub revision: u64,
    /// The resource's generation that it was compiled from.
    pub generation: i64,
    /// Fingerprint of the policy.
    pub hash: String,
    /// When it was published.
    pub published_at: String,
    /// When it came into force here.
    #[schema(value_type = String)]
    pub applied_at: Timestamp,
    /// For how long it has been in force here, in milliseconds.
    pub age_ms: i64,
    /// Why the newest document was refused, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Default for Enforcer {
    /// For a replica that shares nothing.
    fn default() -> Self {
        Self::new(false)
    }
}

impl Enforcer {
    /// The default policy, until a document arrives. `shared`: replicas share limits; else each of them has
    /// a part of those that are for all.
    pub fn new(shared: bool) -> Self {
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
                judgement: Live::new(Judgement::new(document, shared)),
                shared,
                error: Mutex::default(),
                former: Mutex::default(),
            }),
        }
    }

    /// Puts a document into force, if it is newer than the one there is. Clears the error, unless the
    /// document is older. A document of an owner that another one has followed is older, whatever its
    /// revision: the slower of two ways may bring it late.
    pub fn apply(&self, document: PolicyDocument) -> Applied {
        let mut former = self.inner.former.lock();
        let judgement = self.inner.judgement.load();
        if former.contains(&document.owner_uid) {
            return Applied::Already;
        }
        if !document.supersedes(&judgement.document) {
            // What is in force was published anew: that is no error. Something older says nothing.
            if document.revision == judgement.document.revision {
                *self.inner.error.lock() = None;
            }
            return Applied::Already;
        }
        *self.inner.error.lock() = None;
        if document.owner_uid != judgement.document.owner_uid {
            former.push_back(judgement.document.owner_uid.clone());
            if former.len() > FORMER_OWNERS {
                former.pop_front();
            }
        }
        self.inner.breaker.set(Settings::from(&document.policy.circuit_breaker));
        self.inner.judgement.set(Judgement::new(document, self.inner.shared));
        Applied::Now
    }

    /// Shows that a newer policy could not be taken. The last good one stays in force.
    pub fn refuse(&self, error: String) {
        *self.inner.error.lock() = Some(error);
    }

    /// The policy in force.
    pub fn judgement(&self) -> Arc<Judgement> {
        self.inner.judgement.get()
    }

    /// The breaker's settings in force.
    pub fn breaker(&self) -> Live<Settings> {
        self.inner.breaker.clone()
    }

    /// Whether replicas share limits.
    pub fn is_shared(&self) -> bool {
        self.inner.shared
    }

    /// What is told about it.
    pub fn state(&self) -> PolicyState {
        let judgement = self.judgement();
        let document = &judgement.document;
        PolicyState {
            uid: document.owner_uid.clone(),
            revision: document.revision,
            generation: document.generation,
            hash: document.hash.clone(),
            published_at: document.published_at.clone(),
            applied_at: judgement.applied_at,
            age_ms: Timestamp::now().duration_since(judgement.applied_at).as_millis() as i64,
            error: self.inner.error.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
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
        enforcer.judgement().document.policy.rate_limit.as_ref().unwrap().capacity
    }

    #[test]
    fn the_newest_revision_wins_whichever_way_it_comes() {
        let enforcer = Enforcer::default();
        assert_eq!(enforcer.apply(document("a", 2, 20)), Applied::Now);
        assert_eq!(enforcer.apply(document("a", 1, 10)), Applied::Already);
        assert_eq!(capacity(&enforcer), 20);
        assert_eq!(enforcer.apply(document("b", 1, 30)), Applied::Now, "a new owner starts over");
        assert_eq!(capacity(&enforcer), 30);
        assert_eq!(enforcer.apply(document("a", 3, 40)), Applied::Already, "the slow way comes last");
        assert_eq!(capacity(&enforcer), 30);
    }

    #[test]
    fn a_bad_document_leaves_the_last_good_one_and_says_so() {
        let enforcer = Enforcer::default();
        enforcer.apply(document("a", 2, 10));
        enforcer.refuse("capacity is -5".into());
        let told = || enforcer.state().error;
        assert_eq!((capacity(&enforcer), enforcer.state().revision), (10, 2));
        enforcer.apply(document("a", 1, 99));
        assert_eq!(told().as_deref(), Some("capacity is -5"), "something older says nothing");
        enforcer.apply(document("a", 2, 10));
        assert_eq!(told(), None, "what is in force was published anew");
        enforcer.refuse("capacity is -5".into());
        assert_eq!(enforcer.apply(document("a", 3, 20)), Applied::Now);
        assert_eq!((told(), capacity(&enforcer)), (None, 20));
    }
}
