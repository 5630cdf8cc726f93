//! From a resource to the policy document that its replicas enforce.

use jiff::Timestamp;
use phase6_policy::{Policy, PolicyDocument, Scope};
use sha2::{Digest, Sha256};

use crate::Phase6Service;

/// Compiles `resource` into the document that follows `previous`.
///
/// `replicas` is among how many a shared limit is divided where they have no state in common. `None`
/// when nothing that replicas enforce has changed: then nothing needs publishing.
pub fn compile(
    resource: &Phase6Service,
    previous: Option<&PolicyDocument>,
    replicas: u32,
    now: Timestamp,
) -> Option<PolicyDocument> {
    let owner_uid = resource.metadata.uid.clone().unwrap_or_default();
    let previous = previous.filter(|document| document.owner_uid == owner_uid);
    let policy = resource.spec.policy();
    // Where nothing is divided, how many there are changes nothing.
    let divided = policy.rate_limit.as_ref().is_some_and(|limit| limit.scope == Scope::Shared);
    let replicas = if divided { replicas.max(1) } else { 1 };
    if previous.is_some_and(|document| document.policy == policy && document.replicas == replicas) {
        return None;
    }
    Some(PolicyDocument {
        owner_uid,
        revision: previous.map_or(0, |document| document.revision) + 1,
        generation: resource.metadata.generation.unwrap_or_default(),
        hash: fingerprint(&policy),
        published_at: now.to_string(),
        replicas,
        policy,
    })
}

/// A short fingerprint of a policy; equal policies have equal fingerprints.
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

    fn resource(capacity: i64, uid: &str) -> Phase6Service {
        serde_json::from_value(json!({
            "apiVersion": "phase6.dev/v1alpha1",
            "kind": "Phase6Service",
            "metadata": {"name": "budget", "uid": uid, "generation": 3},
            "spec": {"service": "budget", "rateLimit": {"capacity": capacity, "refillPerSecond": 10}},
        }))
        .unwrap()
    }

    #[test]
    fn revisions_grow_by_one_and_only_with_a_change() {
        let first = compile(&resource(100, "a"), None, 1, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((first.revision, first.generation), (1, 3));
        assert_eq!(compile(&resource(100, "a"), Some(&first), 1, Timestamp::UNIX_EPOCH), None);
        let second = compile(&resource(50, "a"), Some(&first), 1, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(second.revision, 2);
        assert_ne!(second.hash, first.hash);
    }

    #[test]
    fn another_number_of_replicas_is_published_only_where_it_divides_something() {
        let compile = |resource: &Phase6Service, previous, replicas| {
            compile(resource, previous, replicas, Timestamp::UNIX_EPOCH)
        };
        let shared = resource(100, "a");
        let one = compile(&shared, None, 1).unwrap();
        assert_eq!(compile(&shared, Some(&one), 0), None, "none is like one");
        let three = compile(&shared, Some(&one), 3).unwrap();
        assert_eq!((three.revision, three.replicas), (2, 3));
        let mut alone = resource(100, "a");
        alone.spec.rate_limit.as_mut().unwrap().scope = Scope::PerReplica;
        let one = compile(&alone, None, 1).unwrap();
        assert_eq!(compile(&alone, Some(&one), 3), None);
    }

    #[test]
    fn a_recreated_resource_starts_over() {
        let old = compile(&resource(100, "a"), None, 1, Timestamp::UNIX_EPOCH).unwrap();
        let new = compile(&resource(100, "b"), Some(&old), 1, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(new.revision, 1);
        assert!(new.supersedes(&old));
    }
}
