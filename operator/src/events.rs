//! Kubernetes events about resources.
//!
//! The recorder folds events of one type, reason and action within six minutes into a series. The action
//! therefore carries a detail that differs between events of one reason, such as the revision.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use phase6_crds::Phase6ServiceStatus;
use phase6_manifest::differences;
use phase6_policy::PolicyDocument;

use crate::{
    build::{Kind, Object},
    report::is_policy_applied,
};

/// Longest note in bytes, before the mark of truncation. The API server accepts 1,024 bytes.
const MAX_NOTE: usize = 1000;

/// Publisher of events. A failed event is logged and not retried: nothing depends on it.
pub struct EventPublisher {
    recorder: Recorder,
}

impl EventPublisher {
    /// Creates a publisher. `pod_name` names the operator's pod as the source of the events.
    pub fn new(client: Client, pod_name: String) -> Self {
        let reporter = Reporter { controller: "phase6-operator".into(), instance: Some(pod_name) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes events of a resource, in order.
    pub async fn publish(&self, resource: &ObjectReference, events: &[ResourceEvent]) {
        for event in events {
            let reason = event.reason;
            let event = Event {
                type_: event.type_,
                reason: reason.into(),
                note: Some(truncate(&event.note)),
                action: event.action.clone(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, resource).await {
                tracing::warn!(%error, reason, "failed to publish an event");
            }
        }
    }
}

/// Event of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceEvent {
    /// Severity.
    pub type_: EventType,
    /// Kind of event, such as `PolicyPublished`.
    pub reason: &'static str,
    /// Action that the operator took, distinct for each event that must not be folded into another.
    pub action: String,
    /// Message for people.
    pub note: String,
}

impl ResourceEvent {
    /// Returns the event of a new revision: every changed setting, with its old and new value.
    pub fn policy_published(before: Option<&PolicyDocument>, document: &PolicyDocument) -> Self {
        let revision = document.revision;
        let note = match before {
            None => format!("revision {revision} is published"),
            Some(before) => {
                let mut changes: Vec<String> =
                    differences(&before.policy, &document.policy).iter().map(ToString::to_string).collect();
                if before.replicas != document.replicas {
                    changes.push(format!(
                        "replicas sharing the limit {} -> {}",
                        before.replicas, document.replicas
                    ));
                }
                format!("revision {revision}: {}", changes.join(", "))
            }
        };
        Self {
            type_: EventType::Normal,
            reason: "PolicyPublished",
            action: format!("PublishRevision{revision}"),
            note,
        }
    }

    /// Returns the event of a policy that every ready replica enforces, if `now` is the first status to
    /// report it.
    pub fn policy_applied(before: Option<&Phase6ServiceStatus>, now: &Phase6ServiceStatus) -> Option<Self> {
        let policy = now.policy.as_ref()?;
        let propagation_ms = policy.propagation_ms?;
        let before = before.and_then(|before| before.policy.as_ref());
        let is_known = before
            .is_some_and(|before| before.revision == policy.revision && before.propagation_ms.is_some());
        (!is_known && is_policy_applied(now)).then(|| Self {
            type_: EventType::Normal,
            reason: "PolicyApplied",
            action: format!("ConfirmRevision{}", policy.revision),
            note: format!(
                "revision {} is enforced by all {} ready replicas, {propagation_ms} ms after it was published",
                policy.revision, policy.total_replicas
            ),
        })
    }

    /// Returns the event of an object that was deleted because it is no longer desired.
    pub fn removed(kind: Kind, name: &str) -> Self {
        let kind = kind.api().kind;
        Self {
            type_: EventType::Normal,
            reason: "Removed",
            action: format!("Remove{kind}"),
            note: format!("{kind} {name} is no longer needed; deleted"),
        }
    }

    /// Returns the event of an object that another client modified at `path`.
    pub fn restored(object: &Object, path: &str) -> Self {
        Self::repaired(object, &format!("was modified by another client at {path}; restored"))
    }

    /// Returns the event of an object that another client deleted.
    pub fn recreated(object: &Object) -> Self {
        Self::repaired(object, "was deleted by another client; recreated")
    }

    fn repaired(object: &Object, repair: &str) -> Self {
        let kind = object.kind.api().kind;
        Self {
            type_: EventType::Warning,
            reason: "Repaired",
            action: format!("Repair{kind}"),
            note: format!("{kind} {} {repair}", object.name),
        }
    }

    /// Returns the event of a resource that breaks its rules.
    pub fn invalid_spec(generation: i64, problems: &str) -> Self {
        Self {
            type_: EventType::Warning,
            reason: "InvalidSpec",
            action: format!("RefuseGeneration{generation}"),
            note: format!("{problems}; the running service is left as it is"),
        }
    }
}

fn truncate(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_NOTE);
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_are_truncated_between_characters() {
        assert_eq!(truncate("short"), "short");
        let long = truncate(&"é".repeat(600));
        assert_eq!(long, format!("{}…", "é".repeat(500)));
        assert!(truncate(&format!("a{}", "é".repeat(600))).len() <= 1024);
    }
}
