#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::{
    build::next_document,
    probe::{ProbeError, ReplicaPolicy},
};

fn resource() -> Phase6Service {
    serde_json::from_value(json!({
        "apiVersion": "phase6.dev/v1alpha1",
        "kind": "Phase6Service",
        "metadata": {"name": "budget", "namespace": "learning", "uid": "2b1c", "generation": 3},
        "spec": {"service": "budget", "rateLimit": {"capacity": 100, "refillPerSecond": 10}},
    }))
    .unwrap()
}

fn deployment(desired: i64, ready: i64) -> Value {
    json!({
        "metadata": {"generation": 1},
        "spec": {"replicas": desired},
        "status": {"observedGeneration": 1, "replicas": desired, "updatedReplicas": desired, "readyReplicas": ready},
    })
}

/// Revision 7, published at the epoch.
fn document() -> PolicyDocument {
    next_document(&resource(), None, 6, 1, Timestamp::UNIX_EPOCH)
}

fn enforcing(revision: u64) -> ReplicaPolicy {
    ReplicaPolicy { uid: "2b1c".into(), revision, hash: document().hash, error: None }
}

/// Status one second after publication, with one ready replica for each probe result.
fn status_of(
    previous: Option<&Phase6ServiceStatus>,
    desired: i64,
    results: &[ProbeResult],
) -> Phase6ServiceStatus {
    let replicas: Vec<ProbedReplica> = results
        .iter()
        .enumerate()
        .map(|(i, result)| ProbedReplica { name: format!("budget-{i}"), result: result.clone() })
        .collect();
    status(&Observation {
        resource: &resource(),
        previous,
        document: &document(),
        deployment: Some(&deployment(desired, results.len() as i64)),
        replicas: &replicas,
        pods: results.len(),
        stall: None,
        shared_state: false,
        now: Timestamp::from_second(1).unwrap(),
    })
}

/// Returns status, reason and message of a condition.
fn condition<'a>(status: &'a Phase6ServiceStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn policy_applied_is_true_only_if_every_ready_replica_enforces_the_policy() {
    let all = status_of(None, 2, &[Ok(enforcing(7)), Ok(enforcing(7))]);
    let applied = condition(&all, "PolicyApplied");
    assert_eq!(applied, ("True", "EnforcedEverywhere", "revision 7 is enforced by all 2 ready replicas"));
    let policy = all.policy.as_ref().unwrap();
    assert_eq!((policy.applied.as_str(), policy.propagation_ms), ("2/2", Some(1000)));
    assert_eq!(condition(&all, "Ready").0, "True");

    let some = status_of(None, 2, &[Ok(enforcing(7)), Ok(enforcing(6))]);
    let applied = condition(&some, "PolicyApplied");
    assert_eq!(applied, ("False", "Propagating", "budget-1 enforces revision 6, not 7 yet"));
    let policy = some.policy.as_ref().unwrap();
    assert_eq!((policy.applied.as_str(), policy.propagation_ms), ("1/2", None));
}

#[test]
fn a_replica_with_a_policy_of_another_resource_does_not_count() {
    let other = ReplicaPolicy { uid: "other".into(), ..enforcing(7) };
    assert_eq!(condition(&status_of(None, 1, &[Ok(other)]), "PolicyApplied").0, "False");
}

#[test]
fn another_policy_of_the_same_revision_does_not_count() {
    let other = ReplicaPolicy { hash: "other".into(), ..enforcing(7) };
    assert_eq!(condition(&status_of(None, 1, &[Ok(other)]), "PolicyApplied").0, "False");
}

#[test]
fn a_replica_that_does_not_respond_or_rejects_the_policy_is_named() {
    let silent = status_of(None, 2, &[Ok(enforcing(7)), Err(ProbeError::Timeout)]);
    assert_eq!(
        condition(&silent, "PolicyApplied"),
        ("False", "ReplicaSilent", "policy probe of budget-1 failed: no response within 500 ms")
    );
    assert_eq!(condition(&silent, "Degraded").0, "True");
    assert_eq!(silent.policy.unwrap().last_error.as_deref(), Some("budget-1: no response within 500 ms"));

    let error = Some("capacity is -5".to_owned());
    let refusing = ReplicaPolicy { error, ..enforcing(6) };
    let refused = status_of(None, 1, &[Ok(refusing)]);
    assert_eq!(
        condition(&refused, "PolicyApplied"),
        ("False", "ReplicaRefuses", "budget-0 rejected a newer policy: capacity is -5")
    );
}

#[test]
fn without_ready_replicas_a_policy_is_applied_only_if_none_is_desired() {
    assert_eq!(condition(&status_of(None, 1, &[]), "PolicyApplied").1, "NoReadyReplicas");
    assert_eq!(condition(&status_of(None, 1, &[]), "PolicyApplied").0, "False");
    let none = status_of(None, 0, &[]);
    assert_eq!(
        (condition(&none, "PolicyApplied").0, condition(&none, "PolicyApplied").1),
        ("True", "ScaledToZero")
    );
}

#[test]
fn equal_observations_give_equal_statuses_and_times_move_only_with_a_transition() {
    let first = status_of(None, 1, &[Ok(enforcing(7))]);
    assert_eq!(status_of(Some(&first), 1, &[Ok(enforcing(7))]), first);
    let mut earlier = first.clone();
    for condition in &mut earlier.conditions {
        condition.last_transition_time = Time(k8s_openapi::jiff::Timestamp::from_second(-5).unwrap());
    }
    earlier.policy.as_mut().unwrap().propagation_ms = Some(41);
    let again = status_of(Some(&earlier), 1, &[Ok(enforcing(7))]);
    assert_eq!(again, earlier, "neither the time of a transition nor the propagation time moves");
    let flipped = status_of(Some(&earlier), 1, &[Ok(enforcing(6))]);
    let applied = flipped.conditions.iter().find(|condition| condition.type_ == "PolicyApplied").unwrap();
    assert_eq!(applied.last_transition_time.0.as_second(), 1);
}

#[test]
fn an_invalid_resource_keeps_the_rest_of_its_status() {
    let before = status_of(None, 1, &[Ok(enforcing(7))]);
    let after =
        invalid_status(Some(&before), Some(4), "spec.cache.ttl is 5", Timestamp::from_second(9).unwrap());
    assert_eq!(after.policy, before.policy);
    assert_eq!(condition(&after, "Stalled"), ("True", "InvalidSpec", "spec.cache.ttl is 5"));
    assert_eq!(condition(&after, "Degraded"), condition(&before, "Degraded"));
}
