//! Conditions of a status and the times of their transitions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use phase6_crds::Phase6ServiceStatus;

/// Condition without times.
pub(super) struct NewCondition {
    pub(super) type_: &'static str,
    /// True for the status `True`, false for `False`.
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl NewCondition {
    pub(super) fn new(
        type_: &'static str,
        holds: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, holds, reason, message: message.into() }
    }
}

/// Merges new conditions into those of the previous status.
///
/// The time of a transition is kept unless the condition's status changes, so that equal observations give
/// equal statuses. Conditions of other types are kept.
pub(super) fn merge<const N: usize>(
    previous: Option<&Phase6ServiceStatus>,
    new: [NewCondition; N],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let before: &[Condition] = previous.map_or(&[], |previous| &previous.conditions);
    // The API has a resolution of one second.
    let now = k8s_openapi::jiff::Timestamp::from_second(now.as_second());
    let now = Time(now.expect("one version of jiff represents the timestamps of the other"));
    let mut merged: Vec<Condition> = new
        .into_iter()
        .map(|new| {
            let status = if new.holds { "True" } else { "False" };
            let unchanged = before.iter().find(|old| old.type_ == new.type_ && old.status == status);
            Condition {
                type_: new.type_.into(),
                status: status.into(),
                reason: new.reason.into(),
                message: new.message,
                observed_generation: generation,
                last_transition_time: unchanged.map_or(&now, |old| &old.last_transition_time).clone(),
            }
        })
        .collect();
    let others = before.iter().filter(|old| merged.iter().all(|new| new.type_ != old.type_));
    let others: Vec<_> = others.cloned().collect();
    merged.extend(others);
    merged
}
