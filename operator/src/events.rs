//! Tells people what was done, as events of the resource.
//!
//! Events of one reason and action within six minutes are folded into one by those who show them, so
//! the action carries what tells one from another.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use phase6_crds::Phase6ServiceStatus;
use phase6_manifest::differences;
use phase6_policy::PolicyDocument;

/// Longest note that the API takes, with room for what it is cut with.
const LONGEST_NOTE: usize = 1000;

/// Writes events. Those that cannot be written are logged: nothing depends on them.
pub struct Events {
    recorder: Recorder,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether somebody should look at it.
    pub warning: bool,
    /// What kind of thing it is, as in `PolicyPublished`.
    pub reason: &'static str,
    /// What tells it from others of its kind.
    pub action: String,
    /// The sentence.
    pub note: String,
}

impl Events {
    /// `instance` is the pod that the operator runs in.
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "phase6-operator".into(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Tells it all, in order.
    pub async fn tell(&self, resource: &ObjectReference, news: &[News]) {
        for item in news {
            let event = Event {
                type_: if item.warning { EventType::Warning } else { EventType::Normal },
                reason: item.reason.into(),
                note: Some(clipped(&item.note)),
                action: item.action.clone(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, resource).await {
                tracing::warn!(%error, reason = item.reason, "an event could not be written");
            }
        }
    }
}

/// Whether a status says that every ready replica enforces the policy.
pub fn is_applied(status: &Phase6ServiceStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "PolicyApplied" && condition.status == "True")
}

/// What a published policy changes, from what to what.
pub fn told_when_published(before: Option<&PolicyDocument>, document: &PolicyDocument) -> News {
    let revision = document.revision;
    let note = match before {
        None => format!("revision {revision} is published"),
        Some(before) => {
            let mut changes: Vec<String> =
                differences(&before.policy, &document.policy).iter().map(ToString::to_string).collect();
            if before.replicas != document.replicas {
                changes.push(format!(
                    "replicas that share the limit {} -> {}",
                    before.replicas, document.replicas
                ));
            }
            format!("revision {revision}: {}", changes.join(", "))
        }
    };
    News { warning: false, reason: "PolicyPublished", action: format!("PublishRevision{revision}"), note }
}

/// That a policy is in force everywhere, the first time that a status says so.
pub fn told_when_applied(before: Option<&Phase6ServiceStatus>, now: &Phase6ServiceStatus) -> Option<News> {
    let policy = now.policy.as_ref()?;
    let took = policy.propagation_ms?;
    let known = before.and_then(|before| before.policy.as_ref());
    let known =
        known.is_some_and(|known| known.revision == policy.revision && known.propagation_ms.is_some());
    (!known && is_applied(now)).then(|| News {
        warning: false,
        reason: "PolicyApplied",
        action: format!("ConfirmRevision{}", policy.revision),
        note: format!(
            "revision {} is in force on all {} ready replicas, {took} ms after it was published",
            policy.revision, policy.total_replicas
        ),
    })
}

fn clipped(text: &str) -> String {
    let mut end = text.len().min(LONGEST_NOTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}
