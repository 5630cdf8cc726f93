//! Selection of the pods that count as replicas of a resource. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Replica that receives requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Name of the pod.
    pub name: String,
    /// Address that the service listens on, as `HOST:PORT`.
    pub address: String,
}

/// Returns the replicas that receive requests, sorted by name: pods that are ready and not terminating.
pub fn ready(pods: &[Arc<Pod>], port: u16) -> Vec<Replica> {
    let mut replicas: Vec<Replica> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod))
        .filter_map(|pod| {
            let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
            let address = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            Some(Replica { name: pod.name_any(), address })
        })
        .collect();
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    replicas
}

/// Returns the number of pods, ready or not, that are neither finished nor terminating.
pub fn count_active(pods: &[Arc<Pod>]) -> usize {
    let is_finished = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_finished(pod)).count()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ip: &str, ready: &str, more: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name},
            "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        });
        if let (Some(pod), Value::Object(more)) = (pod.as_object_mut(), more) {
            pod.extend(more);
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn only_ready_pods_that_are_not_terminating_receive_requests() {
        let terminating = json!({"metadata": {"name": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let pods = [
            pod("b", "fd00::2", "True", json!({})),
            pod("a", "10.0.0.1", "True", json!({})),
            pod("c", "10.0.0.3", "False", json!({})),
            pod("d", "10.0.0.4", "True", terminating),
        ];
        let addresses: Vec<_> = ready(&pods, 3003).into_iter().map(|replica| replica.address).collect();
        assert_eq!(addresses, ["10.0.0.1:3003", "[fd00::2]:3003"]);
        assert_eq!(count_active(&pods), 3);
    }

    #[test]
    fn finished_pods_are_not_counted() {
        let finished = |phase: &str| pod("a", "10.0.0.1", "False", json!({"status": {"phase": phase}}));
        assert_eq!(count_active(&[finished("Succeeded"), finished("Failed"), finished("Pending")]), 1);
    }
}
