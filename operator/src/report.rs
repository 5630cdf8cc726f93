//! Report stage: the status of a resource. Pure: observations in, status out.
//!
//! `PolicyApplied` is true only if every ready replica itself reported to enforce the newest policy. A
//! replica that does not respond or rejects the policy makes it false and is named.

mod conditions;
mod rollout;

use jiff::Timestamp;
use phase6_crds::{Phase6Service, Phase6ServiceStatus, PolicyStatus};
use phase6_policy::PolicyDocument;
use serde_json::Value;

use self::{
    conditions::{NewCondition, merge},
    rollout::Rollout,
};
use crate::{
    build::RESOURCE_LABEL,
    probe::{ProbeResult, ProbedReplica},
};

/// Longest message that is copied from a replica or from the API server, in characters.
const MAX_MESSAGE: usize = 500;

/// Observations of one reconcile.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Resource.
    pub resource: &'a Phase6Service,
    /// Status before this reconcile.
    pub previous: Option<&'a Phase6ServiceStatus>,
    /// Published policy.
    pub document: &'a PolicyDocument,
    /// Deployment of the resource.
    pub deployment: Option<&'a Value>,
    /// Ready replicas, with the results of their probes.
    pub replicas: &'a [ProbedReplica],
    /// Number of pods, ready or not.
    pub pods: usize,
    /// Cause for which an object could not be applied.
    pub stall: Option<&'a Stall>,
    /// True if replicas share the state of limits; else a shared limit is divided among them.
    pub shared_state: bool,
    /// Current time.
    pub now: Timestamp,
}

/// Cause for which a resource cannot progress without help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Reason of the condition `Stalled`.
    pub reason: &'static str,
    /// Message of the condition `Stalled`.
    pub message: String,
}

/// Returns the status after a complete reconcile.
pub fn status(observation: &Observation<'_>) -> Phase6ServiceStatus {
    let rollout = Rollout::of(observation.deployment);
    let conditions = [
        rollout.ready(),
        rollout.reconciling(),
        match observation.stall {
            Some(stall) => NewCondition::new("Stalled", true, stall.reason, truncate(&stall.message)),
            None => rollout.stalled(),
        },
        policy_applied(observation, &rollout),
        degraded(observation, &rollout),
    ];
    let metadata = &observation.resource.metadata;
    Phase6ServiceStatus {
        observed_generation: metadata.generation,
        replicas: observation.pods as i32,
        ready_replicas: observation.replicas.len() as i32,
        selector: format!("{RESOURCE_LABEL}={}", metadata.name.as_deref().unwrap_or_default()),
        policy: Some(policy_status(observation)),
        conditions: merge(observation.previous, conditions, metadata.generation, observation.now),
    }
}

/// Returns the status of a resource that breaks its rules. Everything that runs stays as it is.
pub fn invalid_status(
    previous: Option<&Phase6ServiceStatus>,
    generation: Option<i64>,
    problems: &str,
    now: Timestamp,
) -> Phase6ServiceStatus {
    const REASON: &str = "InvalidSpec";
    let conditions = [
        NewCondition::new("Ready", false, REASON, problems),
        NewCondition::new("Reconciling", false, REASON, "nothing is changed until the spec is valid"),
        NewCondition::new("Stalled", true, REASON, problems),
        NewCondition::new("PolicyApplied", false, REASON, "the last valid policy stays in force"),
    ];
    Phase6ServiceStatus {
        observed_generation: generation,
        conditions: merge(previous, conditions, generation, now),
        ..previous.cloned().unwrap_or_default()
    }
}

/// Returns the status of a resource whose policy could not be published.
pub fn unpublished_status(
    previous: Option<&Phase6ServiceStatus>,
    generation: Option<i64>,
    stall: &Stall,
    now: Timestamp,
) -> Phase6ServiceStatus {
    let conditions = [
        NewCondition::new("Stalled", true, stall.reason, truncate(&stall.message)),
        NewCondition::new("PolicyApplied", false, stall.reason, "the newest policy could not be published"),
    ];
    Phase6ServiceStatus {
        conditions: merge(previous, conditions, generation, now),
        ..previous.cloned().unwrap_or_default()
    }
}

/// Returns true if a probe shows that the replica enforces the published policy.
pub fn enforces(result: &ProbeResult, document: &PolicyDocument) -> bool {
    result.as_ref().is_ok_and(|policy| {
        policy.uid == document.owner_uid
            && policy.revision == document.revision
            && policy.hash == document.hash
            && policy.error.is_none()
    })
}

/// Returns true if a status says that every ready replica enforces the policy.
pub fn is_policy_applied(status: &Phase6ServiceStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "PolicyApplied" && condition.status == "True")
}

fn policy_applied(observation: &Observation<'_>, rollout: &Rollout) -> NewCondition {
    let revision = observation.document.revision;
    let total = observation.replicas.len();
    let condition = |holds, reason, message| NewCondition::new("PolicyApplied", holds, reason, message);
    if total == 0 {
        return if rollout.is_scaled_to_zero() {
            condition(
                true,
                "ScaledToZero",
                format!("revision {revision} is published; the service is scaled to zero"),
            )
        } else {
            condition(
                false,
                "NoReadyReplicas",
                format!("revision {revision} is published; no replica is ready"),
            )
        };
    }
    let Some(replica) =
        observation.replicas.iter().find(|replica| !enforces(&replica.result, observation.document))
    else {
        return condition(
            true,
            "EnforcedEverywhere",
            format!("revision {revision} is enforced by all {total} ready replicas"),
        );
    };
    let name = &replica.name;
    let (reason, message) = match &replica.result {
        Err(error) => ("ReplicaSilent", format!("policy probe of {name} failed: {error}")),
        Ok(policy) => match &policy.error {
            Some(error) => ("ReplicaRefuses", format!("{name} rejected a newer policy: {error}")),
            None => {
                ("Propagating", format!("{name} enforces revision {}, not {revision} yet", policy.revision))
            }
        },
    };
    condition(false, reason, truncate(&message))
}

fn degraded(observation: &Observation<'_>, rollout: &Rollout) -> NewCondition {
    let applied = policy_applied(observation, rollout);
    if matches!(applied.reason, "ReplicaRefuses" | "ReplicaSilent") {
        return NewCondition { type_: "Degraded", holds: true, ..applied };
    }
    if rollout.lacks_replicas() {
        return NewCondition::new("Degraded", true, "ReplicasUnavailable", rollout.summary());
    }
    NewCondition::new("Degraded", false, "AsExpected", "no replica is missing or failing")
}

fn policy_status(observation: &Observation<'_>) -> PolicyStatus {
    let document = observation.document;
    let total = observation.replicas.len() as i32;
    let applied =
        observation.replicas.iter().filter(|replica| enforces(&replica.result, document)).count() as i32;
    let error = observation.replicas.iter().find_map(|replica| match &replica.result {
        Err(error) => Some(format!("{}: {error}", replica.name)),
        Ok(policy) => Some(format!("{}: {}", replica.name, policy.error.as_ref()?)),
    });
    let before = observation.previous.and_then(|status| status.policy.as_ref());
    // Measured once for each revision, when every ready replica first enforces it.
    let known =
        before.filter(|before| before.revision == document.revision as i64 && before.hash == document.hash);
    let propagation_ms = known.and_then(|known| known.propagation_ms).or_else(|| {
        let published: Timestamp = document.published_at.parse().ok()?;
        let elapsed = observation.now.duration_since(published).as_millis() as i64;
        (total > 0 && applied == total).then_some(elapsed.max(0))
    });
    PolicyStatus {
        revision: document.revision as i64,
        // The current generation, even if an earlier one asked for the same policy.
        generation: observation.resource.metadata.generation.unwrap_or_default(),
        hash: document.hash.clone(),
        applied_replicas: applied,
        total_replicas: total,
        divided_by: if observation.shared_state { 1 } else { document.replicas as i32 },
        applied: format!("{applied}/{total}"),
        propagation_ms,
        last_error: error.map(|error| truncate(&error)),
    }
}

fn truncate(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
