//! Scenarios of whole reconciles over a scripted API server.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod harness;

use serde_json::json;
use tokio::sync::watch;

use self::harness::Harness;
use super::*;
use crate::{
    context::RESYNC,
    election::Leadership,
    fixtures::{
        NAMESPACE, Reply, Scenario, apply, apply_as, create_event, delete, look_up, not_found, repeat_event,
        write_status,
    },
    resource::ResourceId,
};

const REPLICAS_MANAGER: &str = "phase6-operator/replicas";

/// Spec of a resource with a limit.
fn limited(capacity: u32) -> Value {
    json!({"service": "budget", "rateLimit": {"capacity": capacity, "refillPerSecond": 10}})
}

/// Calls of a first reconcile, in order: the policy, every other object, the number of replicas, the
/// status, and the event.
fn first_reconcile() -> Scenario {
    Scenario::new()
        .expect_creation(Kind::ConfigMap, "budget-policy")
        .expect_creation(Kind::ServiceAccount, "budget")
        .expect_creation(Kind::Role, "budget-policy")
        .expect_creation(Kind::RoleBinding, "budget-policy")
        .expect_creation(Kind::Service, "budget")
        .expect_creation(Kind::Deployment, "budget")
        .expect_creation(Kind::PodDisruptionBudget, "budget")
        .expect(apply_as(Kind::Deployment, "budget", REPLICAS_MANAGER), Reply::Stored)
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored)
}

#[tokio::test]
async fn a_first_reconcile_publishes_the_policy_before_every_other_object() {
    let harness = Harness::new(limited(100)).await;
    let outcome = harness.play(first_reconcile()).await;
    assert_eq!(outcome.result.unwrap(), Action::requeue(RESYNC));
    assert_eq!(harness.published().revision, 1);
    let config_map = &outcome.calls[1].body;
    assert_eq!(config_map["metadata"]["resourceVersion"], Value::Null, "a creation has no precondition");
    assert_eq!(config_map["metadata"]["ownerReferences"][0]["uid"], "2b1c");
    let (status, reason, message) = harness.condition("PolicyApplied");
    assert_eq!((&*status, &*reason), ("False", "NoReadyReplicas"));
    assert_eq!(message, "revision 1 is published; no replica is ready");
    assert_eq!(harness.condition("Ready").1, "RollingOut");
    let event = &outcome.calls.last().unwrap().body;
    assert_eq!(event["note"], "revision 1 is published");
    assert_eq!((&event["type"], &event["regarding"]["uid"]), (&json!("Normal"), &json!("2b1c")));
}

#[tokio::test]
async fn an_unchanged_resource_needs_no_call() {
    let harness = Harness::reconciled(limited(100)).await;
    let outcome = harness.play(Scenario::new()).await;
    assert_eq!(outcome.result.unwrap(), Action::requeue(RESYNC));
}

#[tokio::test]
async fn own_writes_are_not_repeated_before_the_watches_show_them() {
    let mut harness = Harness::reconciled(limited(100)).await;
    harness.edit(|spec| spec["rateLimit"]["capacity"] = 50.into());
    let edit = Scenario::new()
        .expect(apply(Kind::ConfigMap, "budget-policy"), Reply::Stored)
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored);
    harness.play(edit).await.result.unwrap();
    // The caches still show revision 1 and the status before it.
    harness.play(Scenario::new()).await.result.unwrap();
}

#[tokio::test]
async fn an_edit_of_the_policy_writes_only_the_policy_and_the_status() {
    let mut harness = Harness::reconciled(limited(100)).await;
    let shown = harness.api.get(&Kind::ConfigMap.api(), "budget-policy").unwrap();
    harness.edit(|spec| spec["rateLimit"]["capacity"] = 50.into());
    let edit = Scenario::new()
        .expect(apply(Kind::ConfigMap, "budget-policy"), Reply::Stored)
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored);
    let outcome = harness.play(edit).await;
    outcome.result.unwrap();
    assert_eq!(
        outcome.calls[0].body["metadata"]["resourceVersion"], shown["metadata"]["resourceVersion"],
        "the write replaces the version that it was decided on"
    );
    assert_eq!(harness.published().revision, 2);
    assert_eq!(outcome.calls[2].body["note"], "revision 2: rateLimit.capacity 100 -> 50");
}

#[tokio::test]
async fn a_publish_that_meets_a_conflict_is_retried_over_the_newer_revision() {
    let mut harness = Harness::reconciled(limited(100)).await;
    harness.edit(|spec| spec["rateLimit"]["capacity"] = 50.into());
    let conflict = Reply::Failure { code: 409, reason: "Conflict", message: "the object has been modified" };
    let lost = Scenario::new().expect(apply(Kind::ConfigMap, "budget-policy"), conflict);
    let error = harness.play(lost).await.result.unwrap_err();
    assert_eq!(error.label(), "conflict");
    assert_eq!(harness.published().revision, 1);

    // The other writer published revision 2, which the watch delivers before the retry.
    let mut resource: Phase6Service =
        serde_json::from_value(serde_json::to_value(&harness.object).unwrap()).unwrap();
    resource.spec.rate_limit.as_mut().unwrap().capacity = 70;
    let second = build::next_document(&resource, Some(&harness.published()), 1, 1, Timestamp::UNIX_EPOCH);
    assert_eq!(second.revision, 2);
    harness.modify(Kind::ConfigMap, "budget-policy", |stored| {
        stored["data"] = build::policy_config_map(&resource, &second).body["data"].clone();
    });
    let shown = harness.api.get(&Kind::ConfigMap.api(), "budget-policy").unwrap();
    let retry = Scenario::new()
        .expect(apply(Kind::ConfigMap, "budget-policy"), Reply::Stored)
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored);
    let outcome = harness.play(retry).await;
    outcome.result.unwrap();
    assert_eq!(outcome.calls[0].body["metadata"]["resourceVersion"], shown["metadata"]["resourceVersion"]);
    assert_eq!(harness.published().revision, 3);
}

#[tokio::test]
async fn a_deleted_policy_is_published_again_under_its_revision() {
    let mut harness = Harness::reconciled(limited(100)).await;
    let before = harness.published();
    harness.api.remove(Kind::ConfigMap, "budget-policy");
    harness.sync();
    let again = Scenario::new()
        .expect(look_up(Kind::ConfigMap, "budget-policy"), not_found())
        .expect_creation(Kind::ConfigMap, "budget-policy")
        .expect(repeat_event("PolicyPublished"), Reply::Stored);
    harness.play(again).await.result.unwrap();
    assert_eq!(harness.published(), before);
}

#[tokio::test]
async fn an_apply_refused_with_403_stalls_the_resource_and_names_the_object() {
    let harness = Harness::new(limited(100)).await;
    let quota = Reply::Failure {
        code: 403,
        reason: "Forbidden",
        message: "services \"budget\" is forbidden: exceeded quota: no-more",
    };
    let refused = Scenario::new()
        .expect_creation(Kind::ConfigMap, "budget-policy")
        .expect_creation(Kind::ServiceAccount, "budget")
        .expect_creation(Kind::Role, "budget-policy")
        .expect_creation(Kind::RoleBinding, "budget-policy")
        .expect(look_up(Kind::Service, "budget"), not_found())
        .expect(apply(Kind::Service, "budget"), quota)
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored);
    let error = harness.play(refused).await.result.unwrap_err();
    assert_eq!(error.label(), "forbidden");
    let (status, reason, message) = harness.condition("Stalled");
    assert_eq!((&*status, &*reason), ("True", "ApplyRefused"));
    assert_eq!(
        message,
        "failed to apply Service budget: services \"budget\" is forbidden: exceeded quota: no-more"
    );
    assert_eq!(harness.condition("PolicyApplied").1, "NoReadyReplicas", "the policy is published");
}

#[tokio::test]
async fn a_policy_refused_with_422_is_reported_as_unpublished() {
    let harness = Harness::new(limited(100)).await;
    let invalid = Reply::Failure { code: 422, reason: "Invalid", message: "ConfigMap is invalid" };
    let refused = Scenario::new()
        .expect(look_up(Kind::ConfigMap, "budget-policy"), not_found())
        .expect(apply(Kind::ConfigMap, "budget-policy"), invalid)
        .expect(write_status("budget"), Reply::Stored);
    let error = harness.play(refused).await.result.unwrap_err();
    assert_eq!(error.label(), "invalid");
    assert_eq!(harness.condition("Stalled").1, "ApplyRefused");
    let applied = harness.condition("PolicyApplied");
    assert_eq!((&*applied.0, &*applied.2), ("False", "the newest policy could not be published"));
    let stored = harness.api.get(&resource_api(), "budget").unwrap();
    assert_eq!(stored["status"]["observedGeneration"], Value::Null, "the generation is not done");
}

#[tokio::test]
async fn an_object_that_the_operator_did_not_make_is_not_overwritten() {
    let harness = Harness::new(limited(100)).await;
    let foreign = json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": "budget", "namespace": NAMESPACE, "resourceVersion": "5"},
    });
    let taken = Scenario::new()
        .expect_creation(Kind::ConfigMap, "budget-policy")
        .expect_creation(Kind::ServiceAccount, "budget")
        .expect_creation(Kind::Role, "budget-policy")
        .expect_creation(Kind::RoleBinding, "budget-policy")
        .expect(look_up(Kind::Service, "budget"), Reply::Object(foreign))
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored);
    let error = harness.play(taken).await.result.unwrap_err();
    assert_eq!(error.label(), "name_taken");
    let (status, reason, message) = harness.condition("Stalled");
    assert_eq!((&*status, &*reason), ("True", "NameTaken"));
    assert!(message.starts_with("Service budget exists and does not belong"), "{message}");
}

#[tokio::test]
async fn an_object_that_another_resource_controls_is_not_overwritten() {
    let mut harness = Harness::reconciled(limited(100)).await;
    harness.modify(Kind::Service, "budget", |stored| {
        stored["metadata"]["ownerReferences"][0]["uid"] = "former".into();
        stored["spec"]["ports"][0]["port"] = 80.into();
    });
    let taken = Scenario::new().expect(write_status("budget"), Reply::Stored);
    let error = harness.play(taken).await.result.unwrap_err();
    assert_eq!(error.label(), "name_taken");
    assert_eq!(harness.condition("Stalled").1, "NameTaken");
}

#[tokio::test]
async fn a_modified_object_is_restored_and_a_deleted_one_is_recreated() {
    let mut harness = Harness::reconciled(limited(100)).await;
    harness.modify(Kind::Deployment, "budget", |stored| {
        stored["spec"]["template"]["spec"]["containers"][0]["args"][0] = "explode".into();
        stored["metadata"]["annotations"]["example.com/note"] = "kept".into();
    });
    harness.api.remove(Kind::Service, "budget");
    harness.sync();
    let repair = Scenario::new()
        .expect_creation(Kind::Service, "budget")
        .expect(apply(Kind::Deployment, "budget"), Reply::Stored)
        .expect(create_event("Repaired"), Reply::Stored)
        .expect(create_event("Repaired"), Reply::Stored);
    let outcome = harness.play(repair).await;
    outcome.result.unwrap();
    let notes: Vec<_> = outcome.calls[3..].iter().map(|call| call.body["note"].as_str().unwrap()).collect();
    assert_eq!(
        notes,
        [
            "Service budget was deleted by another client; recreated",
            "Deployment budget was modified by another client at spec.template.spec.containers[0].args[0]; \
             restored",
        ]
    );
    let deployment = harness.api.get(&Kind::Deployment.api(), "budget").unwrap();
    assert_eq!(deployment["metadata"]["annotations"]["example.com/note"], "kept");
}

#[tokio::test]
async fn an_autoscaler_is_deleted_before_the_number_of_replicas_is_set() {
    let mut spec = limited(100);
    spec["autoscaling"] = json!({"minReplicas": 1, "maxReplicas": 3});
    let mut harness = Harness::new(spec).await;
    let created = Scenario::new()
        .expect_creation(Kind::ConfigMap, "budget-policy")
        .expect_creation(Kind::ServiceAccount, "budget")
        .expect_creation(Kind::Role, "budget-policy")
        .expect_creation(Kind::RoleBinding, "budget-policy")
        .expect_creation(Kind::Service, "budget")
        .expect_creation(Kind::Deployment, "budget")
        .expect_creation(Kind::PodDisruptionBudget, "budget")
        .expect_creation(Kind::HorizontalPodAutoscaler, "budget")
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored);
    harness.play(created).await.result.unwrap();
    harness.edit(|spec| {
        spec.as_object_mut().unwrap().remove("autoscaling");
        spec["replicas"] = 2.into();
    });
    let fixed = Scenario::new()
        .expect(delete(Kind::HorizontalPodAutoscaler, "budget"), Reply::Stored)
        .expect(apply_as(Kind::Deployment, "budget", REPLICAS_MANAGER), Reply::Stored)
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("Removed"), Reply::Stored);
    let outcome = harness.play(fixed).await;
    outcome.result.unwrap();
    assert_eq!(outcome.calls[1].body["spec"], json!({"replicas": 2}));
}

#[tokio::test]
async fn the_status_and_an_event_report_when_every_ready_replica_enforces_the_policy() {
    let mut harness = Harness::reconciled(limited(100)).await;
    let document = harness.published();
    harness.replicas.set("10.0.0.1", Some(&document));
    harness.replicas.set("10.0.0.2", Some(&document));
    harness.modify(Kind::Deployment, "budget", |stored| {
        stored["spec"]["replicas"] = 1.into();
        stored["status"] = json!({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1});
    });
    // Two replicas divide the limit, which is a new revision that neither of them enforces yet.
    let divided = Scenario::new()
        .expect(apply(Kind::ConfigMap, "budget-policy"), Reply::Stored)
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyPublished"), Reply::Stored);
    let outcome = harness.play(divided).await;
    assert_ne!(outcome.result.unwrap(), Action::requeue(RESYNC), "the replicas are probed again soon");
    assert_eq!(
        harness.condition("PolicyApplied"),
        ("False".into(), "Propagating".into(), "budget-10.0.0.1 enforces revision 1, not 2 yet".into())
    );
    assert_eq!(outcome.calls[2].body["note"], "revision 2: replicas sharing the limit 1 -> 2");

    harness.sync();
    let document = harness.published();
    harness.replicas.set("10.0.0.1", Some(&document));
    harness.replicas.set("10.0.0.2", Some(&document));
    let applied = Scenario::new()
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("PolicyApplied"), Reply::Stored);
    let outcome = harness.play(applied).await;
    assert_eq!(outcome.result.unwrap(), Action::requeue(RESYNC));
    assert_eq!(harness.condition("PolicyApplied").1, "EnforcedEverywhere");
    assert_eq!(harness.condition("Ready").1, "AllReplicasReady");
    let note = outcome.calls[1].body["note"].as_str().unwrap();
    assert!(note.starts_with("revision 2 is enforced by all 2 ready replicas, "), "{note}");
    assert!(harness.context.metrics.encode().contains("\nphase6_policy_propagation_seconds_count 1\n"));

    harness.sync();
    harness.play(Scenario::new()).await.result.unwrap();
}

#[tokio::test]
async fn a_replica_that_does_not_respond_is_named_and_never_counted() {
    let mut harness = Harness::reconciled(limited(100)).await;
    harness.replicas.set("10.0.0.1", None);
    harness.sync();
    let silent = Scenario::new().expect(write_status("budget"), Reply::Stored);
    harness.play(silent).await.result.unwrap();
    let (status, reason, message) = harness.condition("PolicyApplied");
    assert_eq!((&*status, &*reason), ("False", "ReplicaSilent"));
    assert!(message.starts_with("policy probe of budget-10.0.0.1 failed: "), "{message}");
    assert_eq!(harness.condition("Degraded").0, "True");
    let stored = harness.api.get(&resource_api(), "budget").unwrap();
    assert_eq!(stored["status"]["policy"]["applied"], "0/1");
}

#[tokio::test]
async fn an_invalid_resource_is_reported_once_and_its_objects_stay() {
    let mut harness = Harness::reconciled(limited(100)).await;
    harness.edit(|spec| spec["tracing"] = json!({"samplingRate": 7}));
    let invalid = Scenario::new()
        .expect(write_status("budget"), Reply::Stored)
        .expect(create_event("InvalidSpec"), Reply::Stored);
    let outcome = harness.play(invalid).await;
    assert_eq!(outcome.result.unwrap(), Action::await_change());
    let (status, reason, message) = harness.condition("Stalled");
    assert_eq!((&*status, &*reason), ("True", "InvalidSpec"));
    assert!(message.contains("`spec.tracing.samplingRate` is 7"), "{message}");
    assert_eq!(harness.published().revision, 1);
    harness.play(Scenario::new()).await.result.unwrap();
}

#[tokio::test]
async fn an_event_reports_a_resource_whose_status_the_api_server_refuses() {
    let mut harness = Harness::reconciled(limited(100)).await;
    harness.edit(|spec| spec["cache"] = json!({"ttl": 5}));
    let refused = Reply::Failure { code: 422, reason: "Invalid", message: "spec.cache.ttl: Invalid value" };
    let untyped = Scenario::new()
        .expect(write_status("budget"), refused)
        .expect(create_event("InvalidSpec"), Reply::Stored);
    let outcome = harness.play(untyped).await;
    assert_eq!(outcome.result.unwrap(), Action::await_change());
    let note = outcome.calls[1].body["note"].as_str().unwrap();
    assert!(note.contains("`spec.cache.ttl` is 5; accepted: a duration"), "{note}");
}

#[tokio::test]
async fn a_resource_that_is_deleted_before_its_status_is_written_is_no_error() {
    let harness = Harness::new(limited(100)).await;
    let mut scenario = first_reconcile();
    scenario.replace_reply(&write_status("budget"), not_found());
    assert_eq!(harness.play(scenario).await.result.unwrap(), Action::requeue(RESYNC));
}

#[tokio::test]
async fn a_resource_that_is_being_deleted_is_left_alone() {
    let mut harness = Harness::new(limited(100)).await;
    harness.object.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(harness.play(Scenario::new()).await.result.unwrap(), Action::await_change());
}

#[tokio::test]
async fn only_the_leader_writes() {
    let (sender, receiver) = watch::channel(false);
    let harness = Harness::with_leadership(limited(100), Leadership::elected(receiver)).await;
    assert_eq!(harness.play(Scenario::new()).await.result.unwrap(), Action::await_change());
    assert!(harness.context.is_ready(), "a replica that does not lead could take over");

    // The Lease is lost between two writes of a reconcile.
    let id = ResourceId::of(&harness.object);
    let writer = Writer::new(&harness.context, &id);
    sender.send_replace(true);
    let body = json!({"metadata": {"name": "budget"}});
    harness.api.start(Scenario::new().expect(apply(Kind::Service, "budget"), Reply::Stored));
    writer.apply_object(Kind::Service, "budget", Kind::Service.manager(), &body).await.unwrap();
    sender.send_replace(false);
    let result = writer.apply_object(Kind::Service, "budget", Kind::Service.manager(), &body).await;
    assert_eq!(result.unwrap_err().label(), "not_leader");
    assert_eq!(writer.delete(Kind::Service, "budget").await.unwrap_err().label(), "not_leader");
    let status = Phase6ServiceStatus::default();
    assert_eq!(writer.write_status(&status).await.unwrap_err().label(), "not_leader");
    harness.api.finish();
}

#[test]
fn a_write_counts_until_the_watch_shows_it() {
    let deployment = |version: u64| Some(json!({"metadata": {"resourceVersion": version.to_string()}}));
    assert_eq!(newest(deployment(9), deployment(10)), deployment(10));
    assert_eq!(newest(deployment(10), deployment(9)), deployment(10));
    assert_eq!(newest(deployment(9), None), deployment(9));
    assert_eq!(newest(None, deployment(9)), deployment(9));
}
