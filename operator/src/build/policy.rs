//! The `ConfigMap` that carries a policy to the replicas.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use phase6_crds::Phase6Service;
use phase6_manifest::{Owner, compile};
use phase6_policy::PolicyDocument;
use serde_json::Value;

use super::{Kind, Object, metadata};

/// Name of the `ConfigMap` of the resource `name`.
pub fn policy_name(name: &str) -> String {
    format!("{name}-policy")
}

/// The document that should be published: the one that is, or the one that follows it.
///
/// `least` is the highest revision that anybody may have seen, for the case that what was published
/// is gone or unreadable: replicas obey only higher ones.
pub fn policy_document(
    resource: &Phase6Service,
    published: Option<&PolicyDocument>,
    least: u64,
    replicas: u32,
    now: Timestamp,
) -> PolicyDocument {
    // A copy of an old document says what is wanted under a number that replicas are past.
    let published = published.filter(|published| published.revision >= least);
    let owner = Owner {
        uid: resource.metadata.uid.as_deref().unwrap_or_default(),
        generation: resource.metadata.generation.unwrap_or_default(),
    };
    match compile(owner, resource.spec.policy(), published, replicas, now) {
        Some(mut document) => {
            document.revision = document.revision.max(least + 1);
            document
        }
        None => published.expect("without a published policy there is always a new one").clone(),
    }
}

/// The `ConfigMap` with this document.
pub fn policy_config_map(resource: &Phase6Service, document: &PolicyDocument) -> Object {
    let text = serde_json::to_string(document).expect("a policy is plain data");
    let map = ConfigMap {
        metadata: metadata(resource, policy_name(&resource.name_any())),
        data: Some([(PolicyDocument::KEY.to_owned(), text)].into()),
        ..ConfigMap::default()
    };
    Object::new(Kind::ConfigMap, map)
}

/// The document in a `ConfigMap`; none if it holds none that can be read.
pub fn published(map: &Value) -> Option<PolicyDocument> {
    serde_json::from_str(map["data"][PolicyDocument::KEY].as_str()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(capacity: u32) -> Phase6Service {
        serde_json::from_value(json!({
            "apiVersion": "phase6.dev/v1alpha1",
            "kind": "Phase6Service",
            "metadata": {"name": "budget", "namespace": "learning", "uid": "2b1c", "generation": 3},
            "spec": {
                "service": "budget",
                "cache": {"ttl": "5s"},
                "rateLimit": {"capacity": capacity, "refillPerSecond": 10},
            },
        }))
        .unwrap()
    }

    fn document(capacity: u32, published: Option<&PolicyDocument>, least: u64) -> PolicyDocument {
        policy_document(&resource(capacity), published, least, 1, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_policy_is_one_small_config_map_owned_by_its_resource() {
        let map = policy_config_map(&resource(100), &document(100, None, 0));
        insta::assert_yaml_snapshot!(map.body);
    }

    #[test]
    fn nothing_changes_when_nothing_changed() {
        let first = document(100, None, 0);
        assert_eq!(document(100, Some(&first), 0), first);
        let map = policy_config_map(&resource(100), &first);
        assert_eq!(published(&map.body), Some(first));
    }

    #[test]
    fn an_edit_takes_the_next_revision() {
        let first = document(100, None, 0);
        let second = document(50, Some(&first), 0);
        assert_eq!((first.revision, second.revision), (1, 2));
        assert!(second.supersedes(&first));
    }

    #[test]
    fn revisions_go_on_where_the_published_one_was_lost() {
        assert_eq!(document(100, None, 7).revision, 8);
    }

    #[test]
    fn an_old_copy_of_the_same_policy_is_published_anew() {
        let first = document(100, None, 0);
        assert_eq!(document(100, Some(&first), 1), first);
        assert_eq!(document(100, Some(&first), 7).revision, 8);
    }

    #[test]
    fn what_cannot_be_read_counts_as_not_published() {
        for data in [json!({}), json!({"policy.json": "{"}), json!({"other": "{}"})] {
            assert_eq!(published(&json!({ "data": data })), None);
        }
    }
}
