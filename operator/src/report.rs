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
    /// Why not everything could be brought about: a reason and a sentence.
    pub trouble: Option<(&'static str, &'a str)>,
    /// How many pods there are, ready or not.
    pub pods: usize,
    /// Whether replicas have state in common; else a shared limit is divided.
    pub shared: bool,
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
        match observed.trouble {
            Some((reason, sentence)) => Fact::new("Stalled", true, reason, clipped(sentence)),
            None => progress.stalled(),
        },
        applied(observed, &progress),
        degraded(observed, &progress),
    ];
    let generation = observed.resource.metadata.generation;
    Phase6ServiceStatus {
        observed_generation: generation,
        replicas: observed.pods as i32,
        ready_replicas: observed.replicas.len() as i32,
        selector: format!(
            "{RESOURCE_LABEL}={}",
            observed.resource.metadata.name.as_deref().unwrap_or_default()
        ),
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

/// The status of a resource whose policy could not be published.
pub fn unpublished(
    previous: Option<&Phase6ServiceStatus>,
    generation: Option<i64>,
    (reason, sentence): (&'static str, &str),
    now: Timestamp,
) -> Phase6ServiceStatus {
    let facts = [
        Fact::new("Stalled", true, reason, clipped(sentence)),
        Fact::new("PolicyApplied", false, reason, "the newest policy could not be published"),
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
        let given_up =
            given_up.map(|condition| clipped(condition["message"].as_str().unwrap_or("no progress")));
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
        if (&state.uid, state.revision, &state.hash) == (&document.owner_uid, document.revision, &document.hash)
            && state.error.is_none())
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
                let behind =
                    format!("{} enforces revision {}, not {revision} yet", replica.name, state.revision);
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
    let errors =
        observed.replicas.iter().zip(observed.answers).filter_map(|(replica, answer)| match answer {
            Answer::Silent(why) => Some(format!("{}: {why}", replica.name)),
            Answer::Enforces(state) => Some(format!("{}: {}", replica.name, state.error.as_ref()?)),
        });
    let last_error = errors.map(|error| clipped(&error)).next();
    let before = observed.resource.status.as_ref().and_then(|status| status.policy.as_ref());
    // Measured once, at the moment when it came true.
    let known =
        before.filter(|before| before.revision == document.revision as i64 && before.hash == document.hash);
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
        divided_by: if observed.shared { 1 } else { document.replicas as i32 },
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
                last_transition_time: since
                    .map_or_else(|| now.clone(), |since| since.last_transition_time.clone()),
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{build::policy_document, replicas::State};

    fn resource(status: Option<Phase6ServiceStatus>) -> Phase6Service {
        let mut resource: Phase6Service = serde_json::from_value(json!({
            "apiVersion": "phase6.dev/v1alpha1",
            "kind": "Phase6Service",
            "metadata": {"name": "budget", "namespace": "learning", "uid": "2b1c", "generation": 3},
            "spec": {"service": "budget", "rateLimit": {"capacity": 100, "refillPerSecond": 10}},
        }))
        .unwrap();
        resource.status = status;
        resource
    }

    fn deployment(desired: i64, ready: i64) -> Value {
        json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": desired},
            "status": {"observedGeneration": 1, "replicas": desired, "updatedReplicas": desired, "readyReplicas": ready},
        })
    }

    fn hash() -> String {
        policy_document(&resource(None), None, 6, 1, Timestamp::UNIX_EPOCH).hash
    }

    fn says(revision: u64) -> Answer {
        Answer::Enforces(State { uid: "2b1c".into(), revision, hash: hash(), error: None })
    }

    /// What is told after a second, of replicas that answer so.
    fn told(previous: Option<Phase6ServiceStatus>, desired: i64, answers: &[Answer]) -> Phase6ServiceStatus {
        let resource = resource(previous);
        let document = policy_document(&resource, None, 6, 1, Timestamp::UNIX_EPOCH);
        let replica = |i| Replica { name: format!("budget-{i}"), address: String::new() };
        let replicas: Vec<Replica> = (0..answers.len()).map(replica).collect();
        status(&Observed {
            resource: &resource,
            document: &document,
            deployment: Some(&deployment(desired, answers.len() as i64)),
            replicas: &replicas,
            answers,
            pods: answers.len(),
            shared: false,
            trouble: None,
            now: Timestamp::from_second(1).unwrap(),
        })
    }

    fn condition<'a>(status: &'a Phase6ServiceStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        (&found.status, &found.reason, &found.message)
    }

    #[test]
    fn applied_is_said_only_when_every_ready_replica_says_so() {
        let all = told(None, 2, &[says(7), says(7)]);
        let applied = condition(&all, "PolicyApplied");
        assert_eq!(applied, ("True", "EnforcedEverywhere", "revision 7 is enforced by all 2 ready replicas"));
        let policy = all.policy.as_ref().unwrap();
        assert_eq!((policy.applied.as_str(), policy.propagation_ms), ("2/2", Some(1000)));
        assert_eq!(condition(&all, "Ready").0, "True");

        let some = told(None, 2, &[says(7), says(6)]);
        let applied = condition(&some, "PolicyApplied");
        assert_eq!(applied, ("False", "Propagating", "budget-1 enforces revision 6, not 7 yet"));
        let policy = some.policy.as_ref().unwrap();
        assert_eq!((policy.applied.as_str(), policy.propagation_ms), ("1/2", None));
    }

    #[test]
    fn a_replica_of_another_resource_does_not_count() {
        let other = Answer::Enforces(State { uid: "other".into(), revision: 7, hash: hash(), error: None });
        assert_eq!(condition(&told(None, 1, &[other]), "PolicyApplied").0, "False");
    }

    #[test]
    fn another_policy_under_the_same_number_does_not_count() {
        let other = State { uid: "2b1c".into(), revision: 7, hash: "other".into(), error: None };
        assert_eq!(condition(&told(None, 1, &[Answer::Enforces(other)]), "PolicyApplied").0, "False");
    }

    #[test]
    fn a_replica_that_is_silent_or_refuses_is_named() {
        let silent = told(None, 2, &[says(7), Answer::Silent("no answer in time".into())]);
        let applied = condition(&silent, "PolicyApplied");
        assert_eq!(applied, ("False", "ReplicaSilent", "budget-1 cannot be asked: no answer in time"));
        assert_eq!(condition(&silent, "Degraded").0, "True");
        assert_eq!(silent.policy.unwrap().last_error.as_deref(), Some("budget-1: no answer in time"));

        let error = Some("capacity is -5".to_owned());
        let refusing = Answer::Enforces(State { uid: "2b1c".into(), revision: 6, hash: hash(), error });
        let refused = told(None, 1, &[refusing]);
        assert_eq!(
            condition(&refused, "PolicyApplied"),
            ("False", "ReplicaRefuses", "budget-0: capacity is -5")
        );
    }

    #[test]
    fn without_replicas_it_is_true_only_if_none_is_wanted() {
        assert_eq!(condition(&told(None, 1, &[]), "PolicyApplied").1, "NoReadyReplicas");
        assert_eq!(condition(&told(None, 1, &[]), "PolicyApplied").0, "False");
        let none = told(None, 0, &[]);
        assert_eq!(
            (condition(&none, "PolicyApplied").0, condition(&none, "PolicyApplied").1),
            ("True", "ScaledToZero")
        );
    }

    #[test]
    fn times_are_those_of_the_flip_and_the_same_sight_gives_the_same_status() {
        let first = told(None, 1, &[says(7)]);
        assert_eq!(told(Some(first.clone()), 1, &[says(7)]), first);
        let mut earlier = first.clone();
        for condition in &mut earlier.conditions {
            condition.last_transition_time = Time(k8s_openapi::jiff::Timestamp::from_second(-5).unwrap());
        }
        earlier.policy.as_mut().unwrap().propagation_ms = Some(41);
        let again = told(Some(earlier.clone()), 1, &[says(7)]);
        assert_eq!(again, earlier, "neither the time of a flip nor that of the propagation moves");
        let flipped = told(Some(earlier), 1, &[says(6)]);
        let applied = flipped.conditions.iter().find(|condition| condition.type_ == "PolicyApplied").unwrap();
        assert_eq!(applied.last_transition_time.0.as_second(), 1);
    }

    #[test]
    fn a_resource_that_breaks_its_rules_keeps_what_was_known_of_it() {
        let before = told(None, 1, &[says(7)]);
        let after =
            invalid(Some(&before), Some(4), "spec.cache.ttl is 5", Timestamp::from_second(9).unwrap());
        assert_eq!(after.policy, before.policy);
        assert_eq!(condition(&after, "Stalled"), ("True", "InvalidSpec", "spec.cache.ttl is 5"));
        assert_eq!(condition(&after, "Degraded"), condition(&before, "Degraded"));
    }

    #[test]
    fn a_deployment_that_gave_up_is_told_as_stalled() {
        let mut deployment = deployment(2, 1);
        deployment["status"]["conditions"] =
            json!([{"type": "Progressing", "status": "False", "message": "has timed out progressing"}]);
        let progress = Progress::of(Some(&deployment));
        assert_eq!(progress.stalled().message, "has timed out progressing");
        assert!(!progress.ready().holds && progress.reconciling().holds);
    }
}
