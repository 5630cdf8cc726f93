//! From what was seen to the status. Pure.
//!
//! `PolicyApplied` is true only if every ready replica said of itself that it enforces the newest
//! policy. A replica that cannot be asked, or refuses, makes it false and is named.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use phase6_crds::{Phase6Service, Phase6ServiceStatus, PolicyStatus};
use phase6_policy::PolicyDocument;
use serde_json::Value;

use crate::{
    build::RESOURCE_LABEL,
    replicas::{Answer, Replica},
};

/// Longest text that is kept of what a replica or the API says.
const LONGEST_TEXT: usize = 500;

/// What was seen of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The resource, with its last status.
    pub resource: &'a Phase6Service,
    /// What is published.
    pub document: &'a PolicyDocument,
    /// Its Deployment.
    pub deployment: Option<&'a Value>,
    /// The ready replicas.
    pub replicas: &'a [Replica],
    /// What each of them said.
    pub answers: &'a [Answer],
    /// How many pods there are, ready or not.
    pub pods: usize,
    /// The time.
    pub now: Timestamp,
}

/// The status that tells all of it.
pub fn status(observed: &Observed<'_>) -> Phase6ServiceStatus {
    let previous = observed.resource.status.as_ref();
    let policy = policy(observed);
    let progress = Progress::of(observed.deployment);
    let facts = [
        progress.ready(),
        progress.reconciling(),
        progress.stalled(),
        applied(observed, &progress),
        degraded(observed, &progress),
    ];
    let generation = observed.resource.metadata.generation;
    Phase6ServiceStatus {
        observed_generation: generation,
        replicas: observed.pods as i32,
        ready_replicas: observed.replicas.len() as i32,
        selector: format!("{RESOURCE_LABEL}={}", observed.resource.metadata.name.as_deref().unwrap_or_default()),
        policy: Some(policy),
        conditions: conditions(previous, facts, generation, observed.now),
    }
}

/// The status of a resource that breaks its rules: what runs goes on as it is.
pub fn invalid(
    previous: Option<&Phase6ServiceStatus>,
    generation: Option<i64>,
    complaint: &str,
    now: Timestamp,
) -> Phase6ServiceStatus {
    let facts = [
        Fact::new("Ready", false, "InvalidSpec", complaint),
        Fact::new("Reconciling", false, "InvalidSpec", "nothing is done before the resource is mended"),
        Fact::new("Stalled", true, "InvalidSpec", complaint),
        Fact::new("PolicyApplied", false, "InvalidSpec", "the last valid policy stays in force"),
    ];
    let kept = previous.cloned().unwrap_or_default();
    Phase6ServiceStatus {
        observed_generation: generation,
        conditions: conditions(previous, facts, generation, now),
        ..kept
    }
}

/// The status of a resource that cannot have what it needs, because it is somebody else's.
pub fn blocked(
    previous: Option<&Phase6ServiceStatus>,
    generation: Option<i64>,
    complaint: &str,
    now: Timestamp,
) -> Phase6ServiceStatus {
    let facts = [
        Fact::new("Ready", false, "NameTaken", complaint),
        Fact::new("Stalled", true, "NameTaken", complaint),
    ];
    let kept = previous.cloned().unwrap_or_default();
    Phase6ServiceStatus { conditions: conditions(previous, facts, generation, now), ..kept }
}

/// One condition before it has its times.
struct Fact {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Fact {
    fn new(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds, reason, message: message.into() }
    }
}

/// How far the Deployment is.
struct Progress {
    desired: i64,
    ready: i64,
    /// All pods are of the newest template, and no others are left.
    rolled_out: bool,
    /// Why it does not get on, if it gave up.
    given_up: Option<String>,
}

impl Progress {
    fn of(deployment: Option<&Value>) -> Self {
        let none = Value::Null;
        let deployment = deployment.unwrap_or(&none);
        let number = |part: &str, field: &str| deployment[part][field].as_i64().unwrap_or(0);
        let desired = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let (total, updated) = (number("status", "replicas"), number("status", "updatedReplicas"));
        let seen = number("status", "observedGeneration") >= number("metadata", "generation");
        let rolled_out = !deployment.is_null() && seen && updated == desired && total == desired;
        let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let given_up = conditions.iter().find(|condition| {
            (condition["type"] == "Progressing" && condition["status"] == "False")
                || (condition["type"] == "ReplicaFailure" && condition["status"] == "True")
        });
        let given_up = given_up.map(|condition| clipped(condition["message"].as_str().unwrap_or("no progress")));
        Self { desired, ready: number("status", "readyReplicas"), rolled_out, given_up }
    }

    fn all_ready(&self) -> bool {
        self.rolled_out && self.ready >= self.desired
    }

    fn figures(&self) -> String {
        format!("{} of {} replicas are ready", self.ready, self.desired)
    }

    fn ready(&self) -> Fact {
        let reason = if self.all_ready() {
            "AllReplicasReady"
        } else if self.rolled_out {
            "ReplicasUnavailable"
        } else {
            "RollingOut"
        };
        Fact::new("Ready", self.all_ready(), reason, self.figures())
    }

    fn reconciling(&self) -> Fact {
        if self.all_ready() {
            return Fact::new("Reconciling", false, "Settled", "everything is as it should be");
        }
        Fact::new("Reconciling", true, "RollingOut", self.figures())
    }

    fn stalled(&self) -> Fact {
        match &self.given_up {
            Some(why) => Fact::new("Stalled", true, "NoProgress", why.clone()),
            None => Fact::new("Stalled", false, "Progressing", "nothing is in the way"),
        }
    }
}

/// Whether an answer says that the newest policy is enforced.
pub fn enforces(answer: &Answer, document: &PolicyDocument) -> bool {
    matches!(answer, Answer::Enforces(state)
        if state.uid == document.owner_uid && state.revision >= document.revision && state.error.is_none())
}

fn applied(observed: &Observed<'_>, progress: &Progress) -> Fact {
    let revision = observed.document.revision;
    let total = observed.replicas.len();
    let fact = |holds, reason, message| Fact::new("PolicyApplied", holds, reason, message);
    if total == 0 {
        let none_wanted = progress.desired == 0 && observed.deployment.is_some();
        return if none_wanted {
            fact(true, "ScaledToZero", format!("revision {revision} is published; no replica is wanted"))
        } else {
            fact(false, "NoReadyReplicas", format!("revision {revision} is published; no replica is ready"))
        };
    }
    let mut pairs = observed.replicas.iter().zip(observed.answers);
    let Some((replica, answer)) = pairs.find(|(_, answer)| !enforces(answer, observed.document)) else {
        return fact(
            true,
            "EnforcedEverywhere",
            format!("revision {revision} is enforced by all {total} ready replicas"),
        );
    };
    match answer {
        Answer::Silent(why) => {
            fact(false, "ReplicaSilent", clipped(&format!("{} cannot be asked: {why}", replica.name)))
        }
        Answer::Enforces(state) => match &state.error {
            Some(error) => fact(false, "ReplicaRefuses", clipped(&format!("{}: {error}", replica.name))),
            None => {
                let behind = format!("{} enforces revision {}, not {revision} yet", replica.name, state.revision);
                fact(false, "Propagating", behind)
            }
        },
    }
}

fn degraded(observed: &Observed<'_>, progress: &Progress) -> Fact {
    let fact = applied(observed, progress);
    if matches!(fact.reason, "ReplicaRefuses" | "ReplicaSilent") {
        return Fact { kind: "Degraded", holds: true, ..fact };
    }
    // While pods are replaced the old ones serve on.
    if progress.ready < progress.desired && (progress.rolled_out || progress.given_up.is_some()) {
        return Fact::new("Degraded", true, "ReplicasUnavailable", progress.figures());
    }
    Fact::new("Degraded", false, "AsExpected", "nothing is amiss")
}

fn policy(observed: &Observed<'_>) -> PolicyStatus {
    let document = observed.document;
    let total = observed.replicas.len() as i32;
    let applied = observed.answers.iter().filter(|answer| enforces(answer, document)).count() as i32;
    let errors = observed.replicas.iter().zip(observed.answers).filter_map(|(replica, answer)| match answer {
        Answer::Silent(why) => Some(format!("{}: {why}", replica.name)),
        Answer::Enforces(state) => Some(format!("{}: {}", replica.name, state.error.as_ref()?)),
    });
    let last_error = errors.map(|error| clipped(&error)).next();
    let before = observed.resource.status.as_ref().and_then(|status| status.policy.as_ref());
    // Measured once, at the moment when it came true.
    let known = before.filter(|before| before.revision == document.revision as i64 && before.hash == document.hash);
    let propagation_ms = known.and_then(|known| known.propagation_ms).or_else(|| {
        let published: Timestamp = document.published_at.parse().ok()?;
        let took = observed.now.duration_since(published).as_millis() as i64;
        (total > 0 && applied == total).then_some(took.max(0))
    });
    PolicyStatus {
        revision: document.revision as i64,
        // What this generation asks for is what is published, even if an earlier one did too.
        generation: observed.resource.metadata.generation.unwrap_or_default(),
        hash: document.hash.clone(),
        applied_replicas: applied,
        total_replicas: total,
        divided_by: document.replicas as i32,
        applied: format!("{applied}/{total}"),
        propagation_ms,
        last_error,
    }
}

fn conditions<const N: usize>(
    previous: Option<&Phase6ServiceStatus>,
    facts: [Fact; N],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let before: &[Condition] = previous.map_or(&[], |previous| &previous.conditions);
    let of_kind = |kind: &str| before.iter().find(move |condition| condition.type_ == kind);
    // The API keeps whole seconds.
    let seconds = k8s_openapi::jiff::Timestamp::from_second(now.as_second());
    let now = Time(seconds.expect("a time of today is one in any library"));
    let mut all: Vec<Condition> = facts
        .into_iter()
        .map(|fact| {
            let status = if fact.holds { "True" } else { "False" };
            // The time is that of the last flip, not of the last look.
            let since = of_kind(fact.kind).filter(|condition| condition.status == status);
            Condition {
                type_: fact.kind.into(),
                status: status.into(),
                reason: fact.reason.into(),
                message: fact.message,
                observed_generation: generation,
                last_transition_time: since.map_or_else(|| now.clone(), |since| since.last_transition_time.clone()),
            }
        })
        .collect();
    let kept = before.iter().filter(|old| !all.iter().any(|new| new.type_ == old.type_)).cloned();
    all.extend(kept.collect::<Vec<_>>());
    all
}

fn clipped(text: &str) -> String {
    let end = text.char_indices().nth(LONGEST_TEXT).map_or(text.len(), |(at, _)| at);
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}
