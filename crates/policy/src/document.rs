//! The compiled policy as it travels from the operator (or from `phase6 up`) to a service.

use serde::{Deserialize, Serialize};

use crate::Policy;

/// One published revision of a service's policy.
///
/// Revisions of one owner only grow; a service enforces a document when its owner is new or its
/// revision is higher, whichever way it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDocument {
    /// Identity of the resource that the policy was compiled from.
    pub owner_uid: String,
    /// The previous revision plus one.
    pub revision: u64,
    /// The resource's generation that it was compiled from.
    pub generation: i64,
    /// Fingerprint of `policy`; equal policies have equal fingerprints.
    pub hash: String,
    /// When it was published, RFC 3339 in UTC.
    pub published_at: String,
    /// Among how many replicas a shared limit is divided where they have no state in common.
    #[serde(default = "one")]
    pub replicas: u32,
    /// What to enforce.
    pub policy: Policy,
}

const fn one() -> u32 {
    1
}

impl PolicyDocument {
    /// The key of a document in its `ConfigMap`, and the name of the file that it is mounted as.
    pub const KEY: &str = "policy.json";

    /// Whether this one takes the place of `current`.
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
        assert!(document("b", 1).supersedes(&current), "a recreated resource starts over");
    }

    #[test]
    fn a_document_that_names_no_replicas_is_for_one() {
        let text = r#"{"ownerUid": "a", "revision": 1, "generation": 1, "hash": "", "publishedAt": "", "policy": {}}"#;
        assert_eq!(serde_json::from_str::<PolicyDocument>(text).unwrap().replicas, 1);
    }

    proptest! {
        /// Else the operator would find its own document changed, and publish it again and again.
        #[test]
        fn any_rate_reads_back_as_it_was_written(sampling_rate in 0.0..1000.0_f64) {
            let mut document = document("a", 1);
            document.policy.tracing = Tracing { sampling_rate, ..Tracing::default() };
            let text = serde_json::to_string(&document).unwrap();
            prop_assert_eq!(serde_json::from_str::<PolicyDocument>(&text).unwrap(), document);
        }
    }
}
