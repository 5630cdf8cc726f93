//! From a resource to the policy document that its replicas enforce.

use jiff::Timestamp;
use phase6_policy::{Policy, PolicyDocument};
use sha2::{Digest, Sha256};

use crate::Phase6Service;

/// Compiles `resource` into the document that follows `previous`.
///
/// `None` when nothing that replicas enforce has changed: then nothing needs publishing.
pub fn compile(
    resource: &Phase6Service,
    previous: Option<&PolicyDocument>,
    now: Timestamp,
) -> Option<PolicyDocument> {
    let owner_uid = resource.metadata.uid.clone().unwrap_or_default();
    let previous = previous.filter(|document| document.owner_uid == owner_uid);
    let policy = resource.spec.policy();
    if previous.is_some_and(|document| document.policy == policy) {
        return None;
    }
    Some(PolicyDocument {
        owner_uid,
        revision: previous.map_or(0, |document| document.revision) + 1,
        generation: resource.metadata.generation.unwrap_or_default(),
        hash: fingerprint(&policy),
        published_at: now.to_string(),
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
        let first = compile(&resource(100, "a"), None, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((first.revision, first.generation), (1, 3));
        assert_eq!(compile(&resource(100, "a"), Some(&first), Timestamp::UNIX_EPOCH), None);
        let second = compile(&resource(50, "a"), Some(&first), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(second.revision, 2);
        assert_ne!(second.hash, first.hash);
    }

    #[test]
    fn a_recreated_resource_starts_over() {
        let old = compile(&resource(100, "a"), None, Timestamp::UNIX_EPOCH).unwrap();
        let new = compile(&resource(100, "b"), Some(&old), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(new.revision, 1);
        assert!(new.supersedes(&old));
    }
}
