//! Tells people what was done, as events of the resource.
//!
//! Events of one reason and action within six minutes are folded into one by those who show them, so
//! the action carries what tells one from another.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

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

fn clipped(text: &str) -> String {
    let mut end = text.len().min(LONGEST_NOTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}
