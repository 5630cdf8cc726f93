//! Progress of a Deployment's rollout.

use serde_json::Value;

use super::{conditions::NewCondition, truncate};

/// Progress of a rollout.
pub(super) struct Rollout {
    desired: i64,
    ready: i64,
    /// True if a Deployment is stored.
    exists: bool,
    /// True if every pod runs the newest template and no other pods are left.
    complete: bool,
    /// Cause for which the rollout stopped, if it did.
    stopped: Option<String>,
}

impl Rollout {
    /// Reads the progress from a Deployment.
    pub(super) fn of(deployment: Option<&Value>) -> Self {
        let missing = Value::Null;
        let exists = deployment.is_some();
        let deployment = deployment.unwrap_or(&missing);
        let number = |part: &str, field: &str| deployment[part][field].as_i64().unwrap_or(0);
        let desired = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let (total, updated) = (number("status", "replicas"), number("status", "updatedReplicas"));
        let is_observed = number("status", "observedGeneration") >= number("metadata", "generation");
        let conditions = deployment["status"]["conditions"].as_array();
        let stopped = conditions.into_iter().flatten().find(|condition| {
            (condition["type"] == "Progressing" && condition["status"] == "False")
                || (condition["type"] == "ReplicaFailure" && condition["status"] == "True")
        });
        Self {
            desired,
            ready: number("status", "readyReplicas"),
            exists,
            complete: exists && is_observed && updated == desired && total == desired,
            stopped: stopped
                .map(|condition| truncate(condition["message"].as_str().unwrap_or("no progress"))),
        }
    }

    /// Returns true if the Deployment exists and asks for no replica.
    pub(super) fn is_scaled_to_zero(&self) -> bool {
        self.exists && self.desired == 0
    }

    /// Returns true if replicas are missing that no rollout is about to start: during a rollout the old
    /// pods still serve.
    pub(super) fn lacks_replicas(&self) -> bool {
        self.ready < self.desired && (self.complete || self.stopped.is_some())
    }

    /// Returns the numbers of ready and desired replicas as a sentence.
    pub(super) fn summary(&self) -> String {
        format!("{} of {} replicas are ready", self.ready, self.desired)
    }

    fn all_ready(&self) -> bool {
        self.complete && self.ready >= self.desired
    }

    pub(super) fn ready(&self) -> NewCondition {
        let reason = if self.all_ready() {
            "AllReplicasReady"
        } else if self.complete {
            "ReplicasUnavailable"
        } else {
            "RollingOut"
        };
        NewCondition::new("Ready", self.all_ready(), reason, self.summary())
    }

    pub(super) fn reconciling(&self) -> NewCondition {
        if self.all_ready() {
            let message = "all replicas are ready and up to date";
            return NewCondition::new("Reconciling", false, "Settled", message);
        }
        NewCondition::new("Reconciling", true, "RollingOut", self.summary())
    }

    pub(super) fn stalled(&self) -> NewCondition {
        match &self.stopped {
            Some(cause) => NewCondition::new("Stalled", true, "NoProgress", cause.clone()),
            None => NewCondition::new("Stalled", false, "Progressing", "nothing blocks the rollout"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_that_stopped_progressing_is_stalled() {
        let rollout = Rollout::of(Some(&json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": 2},
            "status": {
                "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1,
                "conditions": [
                    {"type": "Progressing", "status": "False", "message": "has timed out progressing"},
                ],
            },
        })));
        assert_eq!(rollout.stalled().message, "has timed out progressing");
        assert!(!rollout.ready().holds && rollout.reconciling().holds);
    }
}
