//! An autoscaler and the operator on one Deployment.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{fleet::Fleet, kubernetes::until};

/// A metrics pipeline and an autoscaler take their time.
const LONG: Duration = Duration::from_mins(4);

pub async fn an_autoscaler_moves_replicas_and_is_left_alone(fleet: &Fleet) {
    fleet.patch("capabilities", json!({"replicas": 2})).await;
    fleet.settle("capabilities").await;
    let replicas = || async { fleet.deployment("capabilities").await["spec"]["replicas"].as_i64().unwrap() };
    // From a fixed number to an autoscaler: the number stays until the autoscaler says another.
    let autoscaled = json!({
        "replicas": null,
        "autoscaling": {"minReplicas": 2, "maxReplicas": 3, "targetCpuPercent": 30},
        // The target is 15m for each. What two take under the load is far above twice that, and what three
        // take at rest (some 3m each, 5m on a slow machine) far below, also as two.
        "resources": {"requests": {"cpu": "50m", "memory": "48Mi"}},
    });
    let lowest = watch_lowest(fleet);
    fleet.patch("capabilities", autoscaled).await;
    fleet.settle("capabilities").await;
    let urls = [format!("http://capabilities.{}.svc.cluster.local:3009/api/v1/status", fleet.namespace)];
    fleet.start_load("load-scaling", 1_500, 1_500 * 300, &urls).await;
    until("the autoscaler adds a replica", LONG, || async { (replicas().await == 3).then_some(()) }).await;
    fleet.settle("capabilities").await;
    fleet.kubectl(&["delete", "pod", "load-scaling", "--grace-period=0", "--force"]).await;
    until("the autoscaler takes it away", LONG, || async { (replicas().await == 2).then_some(()) }).await;
    // And back: the autoscaler goes, the number is the operator's again.
    fleet.patch("capabilities", json!({"replicas": 3, "autoscaling": null})).await;
    fleet.settle("capabilities").await;
    assert_eq!(replicas().await, 3);
    let gone = fleet.object("apis/autoscaling/v2", "horizontalpodautoscalers", "capabilities").await;
    assert_eq!(gone, None);
    assert!(lowest.stop().await >= 2, "it fell below two in between");
    fleet.patch("capabilities", json!({"replicas": 1, "resources": null})).await;
    fleet.settle("capabilities").await;
}

/// Follows how many replicas a Deployment is to have.
struct Lowest {
    task: tokio::task::JoinHandle<i64>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Lowest {
    async fn stop(self) -> i64 {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }
}

fn watch_lowest(fleet: &Fleet) -> Lowest {
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
                Some(Ok(seen)) = changes.next() => {
                    let seen: Value = serde_json::to_value(seen).unwrap();
                    lowest = lowest.min(seen["spec"]["replicas"].as_i64().unwrap_or(1));
                }
            }
        }
    });
    Lowest { task, stop }
}
