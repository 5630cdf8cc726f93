//! Publication of a policy: revisions, ownership, and the object that pods mount.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use serde_json::json;

use super::*;

fn resource(capacity: u32) -> Phase6Service {
    serde_json::from_value(json!({
        "apiVersion": "phase6.dev/v1alpha1",
        "kind": "Phase6Service",
        "metadata": {"name": "budget", "namespace": "learning", "uid": "2b1c", "generation": 3},
        "spec": {"service": "budget", "rateLimit": {"capacity": capacity, "refillPerSecond": 10}},
    }))
    .unwrap()
}

/// Document of the given capacity under the given revision.
fn document(capacity: u32, revision: u64) -> PolicyDocument {
    build::next_document(&resource(capacity), None, revision - 1, 1, Timestamp::UNIX_EPOCH)
}

fn version(number: u64) -> ResourceVersion {
    ResourceVersion::of_json(&json!({"metadata": {"resourceVersion": number.to_string()}}))
}

/// `ConfigMap` as the API server stores it.
fn stored(document: &PolicyDocument, version: u64) -> Value {
    let mut map = drift::with_fingerprint(&build::policy_config_map(&resource(1), document));
    map["metadata"]["resourceVersion"] = version.to_string().into();
    map
}

fn own_write(document: &PolicyDocument, number: u64) -> PublishedPolicy {
    PublishedPolicy { document: document.clone(), version: version(number), at: Instant::now() }
}

fn plan_for(
    capacity: u32,
    config_map: Option<&Value>,
    last: Option<&PublishedPolicy>,
    reported_revision: u64,
) -> Plan {
    plan(&PlanInput {
        resource: &resource(capacity),
        config_map,
        last,
        reported_revision,
        replicas: 1,
        now: Timestamp::UNIX_EPOCH,
    })
}

#[test]
fn a_first_policy_is_created() {
    let plan = plan_for(100, None, None, 0);
    assert_eq!(plan.document, document(100, 1));
    assert_eq!(plan.replaced_version, Some(ResourceVersion::default()));
    assert!(plan.is_new);
}

#[test]
fn a_published_policy_needs_no_write() {
    let plan = plan_for(100, Some(&stored(&document(100, 7), 10)), None, 7);
    assert_eq!((plan.document, plan.replaced_version), (document(100, 7), None));
}

#[test]
fn an_edit_replaces_the_version_that_the_watch_shows() {
    let plan = plan_for(50, Some(&stored(&document(100, 7), 10)), None, 7);
    assert_eq!(plan.document, document(50, 8));
    assert_eq!(plan.replaced, Some(document(100, 7)));
    assert_eq!(plan.replaced_version, Some(version(10)));
}

#[test]
fn an_own_write_counts_before_the_watch_shows_it() {
    let (shown, last) = (stored(&document(100, 7), 10), own_write(&document(50, 8), 12));
    let unchanged = plan_for(50, Some(&shown), Some(&last), 7);
    assert_eq!((unchanged.document, unchanged.replaced_version), (document(50, 8), None));
    let edited = plan_for(20, Some(&shown), Some(&last), 7);
    assert_eq!(edited.document, document(20, 9));
    assert_eq!(edited.replaced_version, Some(version(12)));
}

#[test]
fn a_newer_write_of_another_process_counts_over_an_own_one() {
    let (shown, last) = (stored(&document(70, 9), 14), own_write(&document(50, 8), 12));
    let plan = plan_for(50, Some(&shown), Some(&last), 8);
    assert_eq!(plan.document, document(50, 10));
    assert_eq!(plan.replaced_version, Some(version(14)));
}

#[test]
fn a_deleted_config_map_comes_back_with_the_same_revision() {
    // `publish` resets the version once the API server has confirmed that the `ConfigMap` is gone.
    let last = own_write(&document(100, 7), 0);
    let plan = plan_for(100, None, Some(&last), 7);
    assert_eq!(plan.document, document(100, 7));
    assert_eq!(plan.replaced_version, Some(ResourceVersion::default()));
}

#[test]
fn an_edit_after_the_config_map_was_deleted_gets_a_higher_revision() {
    let last = own_write(&document(100, 7), 0);
    assert_eq!(plan_for(50, None, Some(&last), 6).document, document(50, 8));
}

#[test]
fn another_process_continues_after_the_revision_in_the_status() {
    assert_eq!(plan_for(100, None, None, 41).document, document(100, 42));
}

#[test]
fn a_config_map_of_an_earlier_resource_of_the_same_name_is_replaced() {
    let mut earlier = document(100, 7);
    earlier.owner_uid = "former".into();
    let plan = plan_for(100, Some(&stored(&earlier, 10)), Some(&own_write(&earlier, 10)), 0);
    assert_eq!(plan.document, document(100, 1));
    assert_eq!(plan.replaced, None);
    assert_eq!(plan.replaced_version, Some(version(10)));
}

#[test]
fn a_forged_policy_is_replaced_by_a_higher_revision() {
    let mut shown = stored(&document(100, 7), 10);
    let forged = serde_json::to_string(&document(9_999, 70)).unwrap();
    shown["data"][PolicyDocument::KEY] = forged.into();
    let plan = plan_for(100, Some(&shown), None, 7);
    assert_eq!(plan.document, document(100, 71));
}

#[test]
fn a_modified_config_map_with_the_published_policy_keeps_its_revision() {
    let mut shown = stored(&document(100, 7), 10);
    shown["metadata"]["labels"][build::RESOURCE_LABEL] = "other".into();
    let plan = plan_for(100, Some(&shown), None, 7);
    assert_eq!((plan.document, plan.is_new), (document(100, 7), false));
    assert_eq!(plan.replaced_version, Some(version(10)));
}
