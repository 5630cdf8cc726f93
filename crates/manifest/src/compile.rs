//! From a policy to the document that replicas enforce.

use jiff::Timestamp;
use phase6_policy::{Policy, PolicyDocument, Scope};
use sha2::{Digest, Sha256};

/// Identity and version of the resource that a policy belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// `metadata.uid`; a resource that was deleted and created again has another one.
    pub uid: &'a str,
    /// `metadata.generation`.
    pub generation: i64,
}

/// Compiles the document that follows `previous`.
///
/// `replicas` is the number of replicas that a shared limit is divided by while they have no common
/// Redis. Returns `None` if `previous` already has the same content: then there is nothing to publish.
pub fn compile(
    owner: Owner<'_>,
    policy: Policy,
    previous: Option<&PolicyDocument>,
    replicas: u32,
    now: Timestamp,
) -> Option<PolicyDocument> {
    let previous = previous.filter(|document| document.owner_uid == owner.uid);
    // Without a shared limit the number of replicas changes nothing.
    let is_shared = policy.rate_limit.as_ref().is_some_and(|limit| limit.scope == Scope::Shared);
    let replicas = if is_shared { replicas.max(1) } else { 1 };
    if previous.is_some_and(|document| document.policy == policy && document.replicas == replicas) {
        return None;
    }
    Some(PolicyDocument {
        owner_uid: owner.uid.to_owned(),
        revision: previous.map_or(0, |document| document.revision) + 1,
        generation: owner.generation,
        hash: fingerprint(&policy),
        published_at: now.to_string(),
        replicas,
        policy,
    })
}

/// Returns the fingerprint of a policy, 12 hexadecimal digits; equal policies have equal fingerprints.
pub fn fingerprint(policy: &Policy) -> String {
    let canonical = serde_json::to_vec(policy).expect("a policy is plain data");
    let digest = Sha256::digest(&canonical);
    let start = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
    format!("{:012x}", start >> 16)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(capacity: i64) -> Policy {
        serde_json::from_value(json!({"rateLimit": {"capacity": capacity, "refillPerSecond": 10}})).unwrap()
    }

    fn next(
        uid: &str,
        policy: Policy,
        previous: Option<&PolicyDocument>,
        replicas: u32,
    ) -> Option<PolicyDocument> {
        compile(Owner { uid, generation: 3 }, policy, previous, replicas, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn revisions_grow_by_one_with_each_change() {
        let first = next("a", policy(100), None, 1).unwrap();
        assert_eq!((first.revision, first.generation), (1, 3));
        assert_eq!(next("a", policy(100), Some(&first), 1), None);
        let second = next("a", policy(50), Some(&first), 1).unwrap();
        assert_eq!(second.revision, 2);
        assert_ne!(second.hash, first.hash);
    }

    #[test]
    fn the_number_of_replicas_is_published_only_for_a_shared_limit() {
        let one = next("a", policy(100), None, 1).unwrap();
        assert_eq!(next("a", policy(100), Some(&one), 0), None, "0 replicas count as 1");
        let three = next("a", policy(100), Some(&one), 3).unwrap();
        assert_eq!((three.revision, three.replicas), (2, 3));
        let mut per_replica = policy(100);
        per_replica.rate_limit.as_mut().unwrap().scope = Scope::PerReplica;
        let one = next("a", per_replica.clone(), None, 1).unwrap();
        assert_eq!(next("a", per_replica, Some(&one), 3), None);
    }

    #[test]
    fn a_recreated_resource_starts_at_revision_1() {
        let old = next("a", policy(100), None, 1).unwrap();
        let new = next("b", policy(100), Some(&old), 1).unwrap();
        assert_eq!(new.revision, 1);
        assert!(new.supersedes(&old));
    }
}
