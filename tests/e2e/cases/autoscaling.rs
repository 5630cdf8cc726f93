//! An autoscaler and the operator on one Deployment.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{fleet::Fleet, kubernetes::wait_until};

/// Longest wait for the autoscaler, which decides on averages of metrics.
const AUTOSCALER_TIMEOUT: Duration = Duration::from_mins(4);

pub async fn an_autoscaler_controls_replicas_without_interference(fleet: &Fleet) {
    fleet.patch("capabilities", json!({"replicas": 2})).await;
    fleet.settle("capabilities").await;
    let replicas = || async { fleet.deployment("capabilities").await["spec"]["replicas"].as_i64().unwrap() };
    // A switch from a fixed number to an autoscaler keeps the number until the autoscaler decides on another.
    let autoscaled = json!({
        "replicas": null,
        "autoscaling": {"minReplicas": 2, "maxReplicas": 3, "targetCpuPercent": 30},
        // The target is 15m per pod. Under the load two pods use far more; at rest three pods use far less
        // (about 3m each, 5m on a slow machine), even divided between two.
        "resources": {"requests": {"cpu": "50m", "memory": "48Mi"}},
    });
    let lowest = watch_lowest(fleet);
    fleet.patch("capabilities", autoscaled).await;
    fleet.settle("capabilities").await;
    let urls = [format!("http://capabilities.{}.svc.cluster.local:3009/api/v1/status", fleet.namespace)];
    fleet.start_load("load-scaling", 1_500, 1_500 * 300, &urls).await;
    wait_until("the autoscaler adds a replica", AUTOSCALER_TIMEOUT, || async {
        (replicas().await == 3).then_some(())
    })
    .await;
    fleet.settle("capabilities").await;
    fleet.kubectl(&["delete", "pod", "load-scaling", "--grace-period=0", "--force"]).await;
    wait_until("the autoscaler removes it", AUTOSCALER_TIMEOUT, || async {
        (replicas().await == 2).then_some(())
    })
    .await;
    // A switch back removes the autoscaler, and the operator sets the number again.
    fleet.patch("capabilities", json!({"replicas": 3, "autoscaling": null})).await;
    fleet.settle("capabilities").await;
    assert_eq!(replicas().await, 3);
    let autoscaler = fleet.object("apis/autoscaling/v2", "horizontalpodautoscalers", "capabilities").await;
    assert_eq!(autoscaler, None);
    assert!(lowest.stop().await >= 2, "the number of replicas fell below two in between");
    fleet.patch("capabilities", json!({"replicas": 1, "resources": null})).await;
    fleet.settle("capabilities").await;
}

/// A watch of the lowest desired number of replicas of a Deployment.
struct LowestReplicas {
    task: tokio::task::JoinHandle<i64>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl LowestReplicas {
    /// Ends the watch, and returns the lowest number.
    async fn stop(self) -> i64 {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }
}

fn watch_lowest(fleet: &Fleet) -> LowestReplicas {
    use futures_util::StreamExt;
    use k8s_openapi::api::apps::v1::Deployment;
    use kube::runtime::{WatchStreamExt, watcher};
    let api: kube::Api<Deployment> = kube::Api::namespaced(fleet.client.clone(), &fleet.namespace);
    let only = watcher::Config::default().fields("metadata.name=capabilities");
    let mut changes = watcher::watcher(api, only).default_backoff().applied_objects().boxed();
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut lowest = i64::MAX;
        loop {
            tokio::select! {
                _ = &mut stopped => return lowest,
                Some(Ok(deployment)) = changes.next() => {
                    let deployment: Value = serde_json::to_value(deployment).unwrap();
                    lowest = lowest.min(deployment["spec"]["replicas"].as_i64().unwrap_or(1));
                }
            }
        }
    });
    LowestReplicas { task, stop }
}
