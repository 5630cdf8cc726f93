//! The `ConfigMap` that carries a policy to the replicas.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use phase6_crds::{Phase6Service, compile};
use phase6_policy::PolicyDocument;

use super::{labels, owner};

/// The one key of the `ConfigMap`; mounted, the name of the file.
pub const POLICY_KEY: &str = "policy.json";

/// Name of the `ConfigMap` of the resource `name`.
pub fn policy_name(name: &str) -> String {
    format!("{name}-policy")
}

/// The `ConfigMap` that follows `published`; none when replicas already have what the resource
/// asks for.
pub fn policy_config_map(
    resource: &Phase6Service,
    published: Option<&PolicyDocument>,
    now: Timestamp,
) -> Option<ConfigMap> {
    let document = compile(resource, published, now)?;
    let text = serde_json::to_string(&document).expect("a policy is plain data");
    Some(ConfigMap {
        metadata: ObjectMeta {
            name: Some(policy_name(&resource.name_any())),
            namespace: resource.namespace(),
            labels: Some(labels(resource)),
            owner_references: owner(resource).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some([(POLICY_KEY.to_owned(), text)].into()),
        ..ConfigMap::default()
    })
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

    fn document(map: &ConfigMap) -> PolicyDocument {
        serde_json::from_str(&map.data.as_ref().unwrap()[POLICY_KEY]).unwrap()
    }

    #[test]
    fn the_policy_is_one_small_config_map_owned_by_its_resource() {
        let map = policy_config_map(&resource(100), None, Timestamp::UNIX_EPOCH).unwrap();
        insta::assert_yaml_snapshot!(map);
    }

    #[test]
    fn nothing_is_built_when_nothing_changed() {
        let published = document(&policy_config_map(&resource(100), None, Timestamp::UNIX_EPOCH).unwrap());
        assert_eq!(policy_config_map(&resource(100), Some(&published), Timestamp::now()), None);
    }

    #[test]
    fn an_edit_takes_the_next_revision_under_the_same_name() {
        let first = policy_config_map(&resource(100), None, Timestamp::UNIX_EPOCH).unwrap();
        let second =
            policy_config_map(&resource(50), Some(&document(&first)), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(second.metadata, first.metadata);
        assert_eq!((document(&first).revision, document(&second).revision), (1, 2));
        assert!(document(&second).supersedes(&document(&first)));
    }
}
