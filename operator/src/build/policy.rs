//! Policy document of a resource, and the `ConfigMap` that delivers it to the replicas.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use phase6_crds::Phase6Service;
use phase6_manifest::{Owner, compile};
use phase6_policy::PolicyDocument;
use serde_json::Value;

use super::{Kind, Object, metadata};

/// Returns the name of the `ConfigMap` of the resource `name`.
pub fn config_map_name(name: &str) -> String {
    format!("{name}-policy")
}

/// Returns the document to publish: `published` if the resource still asks for it, or its successor.
///
/// `highest_revision` is the highest revision that a replica may have seen. It matters if the published
/// document is lost or unreadable, because replicas ignore revisions that are not higher.
pub fn next_document(
    resource: &Phase6Service,
    published: Option<&PolicyDocument>,
    highest_revision: u64,
    replicas: u32,
    now: Timestamp,
) -> PolicyDocument {
    // Replicas ignore a copy of an older document, even of the desired policy.
    let published = published.filter(|published| published.revision >= highest_revision);
    let owner = Owner {
        uid: resource.metadata.uid.as_deref().unwrap_or_default(),
        generation: resource.metadata.generation.unwrap_or_default(),
    };
    match compile(owner, resource.spec.policy(), published, replicas, now) {
        Some(mut document) => {
            document.revision = document.revision.max(highest_revision + 1);
            document
        }
        None => published.expect("`compile` returns a document if none is published").clone(),
    }
}

/// Builds the `ConfigMap` that holds a document.
pub fn policy_config_map(resource: &Phase6Service, document: &PolicyDocument) -> Object {
    let text = serde_json::to_string(document).expect("a policy document serializes to JSON");
    let map = ConfigMap {
        metadata: metadata(resource, config_map_name(&resource.name_any())),
        data: Some([(PolicyDocument::KEY.to_owned(), text)].into()),
        ..ConfigMap::default()
    };
    Object::new(Kind::ConfigMap, map)
}

/// Returns the document in a `ConfigMap`, or `None` if it holds no readable one.
pub fn read_document(map: &Value) -> Option<PolicyDocument> {
    serde_json::from_str(map["data"][PolicyDocument::KEY].as_str()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test panics")]
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

    fn document(capacity: u32, published: Option<&PolicyDocument>, highest_revision: u64) -> PolicyDocument {
        next_document(&resource(capacity), published, highest_revision, 1, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn builds_one_config_map_owned_by_its_resource() {
        let map = policy_config_map(&resource(100), &document(100, None, 0));
        insta::assert_yaml_snapshot!(map.body);
    }

    #[test]
    fn an_unchanged_policy_keeps_its_revision() {
        let first = document(100, None, 0);
        assert_eq!(document(100, Some(&first), 0), first);
        let map = policy_config_map(&resource(100), &first);
        assert_eq!(read_document(&map.body), Some(first));
    }

    #[test]
    fn an_edit_gets_the_next_revision() {
        let first = document(100, None, 0);
        let second = document(50, Some(&first), 0);
        assert_eq!((first.revision, second.revision), (1, 2));
        assert!(second.supersedes(&first));
    }

    #[test]
    fn revisions_continue_after_the_published_document_is_lost() {
        assert_eq!(document(100, None, 7).revision, 8);
    }

    #[test]
    fn an_outdated_copy_of_the_same_policy_gets_a_new_revision() {
        let first = document(100, None, 0);
        assert_eq!(document(100, Some(&first), 1), first);
        assert_eq!(document(100, Some(&first), 7).revision, 8);
    }

    #[test]
    fn an_unreadable_document_counts_as_unpublished() {
        for data in [json!({}), json!({"policy.json": "{"}), json!({"other": "{}"})] {
            assert_eq!(read_document(&json!({ "data": data })), None);
        }
    }
}
