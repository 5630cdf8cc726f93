//! Compiled policy document, which the operator or `phase6 up` delivers to a service.

use serde::{Deserialize, Serialize};

use crate::Policy;

/// Published revision of a service's policy.
///
/// Revisions of one owner only increase. A service enforces a document if its owner is new or its revision is
/// higher than the current one, no matter how the document was delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDocument {
    /// UID of the resource that the policy was compiled from.
    pub owner_uid: String,
    /// Revision number, one higher than the previous revision.
    pub revision: u64,
    /// Generation of the resource that the policy was compiled from.
    pub generation: i64,
    /// Hash of `policy`; equal policies have equal hashes.
    pub hash: String,
    /// Time of publication, RFC 3339 in UTC.
    pub published_at: String,
    /// Number of replicas that a shared limit is divided among if they do not share state in Redis.
    #[serde(default = "default_replicas")]
    pub replicas: u32,
    /// Policy to enforce.
    pub policy: Policy,
}

const fn default_replicas() -> u32 {
    1
}

impl PolicyDocument {
    /// Key of the document in its `ConfigMap`, and name of the file that it is mounted as.
    pub const KEY: &str = "policy.json";

    /// Returns true if this document replaces `current`.
    pub fn supersedes(&self, current: &Self) -> bool {
        self.owner_uid != current.owner_uid || self.revision > current.revision
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Tracing;

    fn document(owner_uid: &str, revision: u64) -> PolicyDocument {
        PolicyDocument {
            owner_uid: owner_uid.into(),
            revision,
            generation: 1,
            hash: String::new(),
            published_at: String::new(),
            replicas: 1,
            policy: Policy::default(),
        }
    }

    #[test]
    fn a_higher_revision_or_a_new_owner_supersedes() {
        let current = document("a", 7);
        assert!(document("a", 8).supersedes(&current));
        assert!(!document("a", 7).supersedes(&current));
        assert!(!document("a", 6).supersedes(&current));
        assert!(document("b", 1).supersedes(&current), "the revisions of a recreated resource start again");
    }

    #[test]
    fn replicas_default_to_one() {
        let text = r#"{"ownerUid": "a", "revision": 1, "generation": 1, "hash": "", "publishedAt": "", "policy": {}}"#;
        assert_eq!(serde_json::from_str::<PolicyDocument>(text).unwrap().replicas, 1);
    }

    proptest! {
        /// A rate that changed in the round trip would make the operator publish its own document repeatedly.
        #[test]
        fn any_sampling_rate_round_trips(sampling_rate in 0.0..1000.0_f64) {
            let mut document = document("a", 1);
            document.policy.tracing = Tracing { sampling_rate, ..Tracing::default() };
            let text = serde_json::to_string(&document).unwrap();
            prop_assert_eq!(serde_json::from_str::<PolicyDocument>(&text).unwrap(), document);
        }
    }
}
