//! Failures of pods, operators and components of the cluster.

use std::time::Duration;

use serde_json::{Value, json};

use super::is_full;
use crate::{
    fleet::{Fleet, SOON, condition},
    kubernetes::{run, wait_until},
};

/// Stops or resumes a component of the cluster, by the program that `PHASE6_E2E_CONTROL` names.
async fn control(verb: &str, component: &str) {
    let program =
        std::env::var("PHASE6_E2E_CONTROL").expect("PHASE6_E2E_CONTROL names the program of cargo xtask");
    run(&program, &["cluster", verb, component]).await;
}

fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

/// A frozen pod stays ready until its kubelet notices. Until then the operator gets no response from it, and
/// must not count it as having applied the policy.
pub async fn a_pod_that_does_not_respond_is_never_counted(fleet: &Fleet) {
    fleet.patch("meta", json!({"replicas": 2})).await;
    fleet.settle("meta").await;
    control("freeze", "meta").await;
    fleet.patch("meta", json!({"tracing": {"samplingRate": 0.77}})).await;
    let resource = wait_until("the status names the silent pod", Duration::from_secs(20), || async {
        let resource = fleet.resource("meta").await;
        let applied = condition(&resource, "PolicyApplied")?;
        assert_ne!(
            (&applied["status"], &applied["observedGeneration"]),
            (&json!("True"), &resource["metadata"]["generation"]),
            "a frozen pod cannot have confirmed the policy"
        );
        (applied["reason"] == "ReplicaSilent").then_some(resource)
    })
    .await;
    assert_eq!(condition(&resource, "Degraded").unwrap()["status"], "True");
    assert!(resource["status"]["policy"]["lastError"].is_string(), "{resource}");
    control("thaw", "meta").await;
    let resource = fleet.settle("meta").await;
    assert_eq!(resource["status"]["policy"]["applied"], "2/2");
    fleet.patch("meta", json!({"replicas": 1})).await;
    fleet.settle("meta").await;
}

/// Pods watch their policy at the API server, so they do not depend on the kubelet of their node.
pub async fn edits_take_effect_while_the_kubelet_is_stopped(fleet: &Fleet) {
    fleet.settle("training").await;
    control("pause", "kubelet").await;
    for edit in 1..=5 {
        fleet.patch("training", json!({"tracing": {"samplingRate": 0.1 * f64::from(edit)}})).await;
        fleet.settle("training").await;
    }
    control("resume", "kubelet").await;
    fleet.patch("training", json!({"tracing": {"samplingRate": 0.15}})).await;
    fleet.settle("training").await;
    wait_until("the node is ready again", SOON, || async {
        let ready = "{.items[*].status.conditions[?(@.type=='Ready')].status}";
        let statuses = fleet.kubectl(&["get", "nodes", "-o", &format!("jsonpath={ready}")]).await;
        (!statuses.contains("False") && !statuses.contains("Unknown")).then_some(())
    })
    .await;
}

pub async fn resources_converge_after_pods_and_operators_are_killed(fleet: &Fleet) {
    let rounds = if is_full() { 50 } else { 6 };
    for round in 0..rounds {
        // The operator is killed while it applies an edit, a little later in each round.
        let replicas = 1 + round % 2;
        let spec =
            json!({"replicas": replicas, "rateLimit": {"capacity": 300 + round, "refillPerSecond": 10}});
        fleet.patch("reports", spec).await;
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        let operator =
            ["delete", "pod", "-l", "app.kubernetes.io/name=phase6-operator", "--grace-period=0", "--force"];
        fleet.kubectl(&operator).await;
        if round % 3 == 0 {
            let pods = fleet.pods("reports").await;
            fleet
                .try_kubectl(&["delete", "pod", &name_of(&pods[0]), "--grace-period=0", "--force"])
                .await
                .ok();
        }
        // The status may be an old one until another operator leads, so the objects and the pods are checked.
        wait_until("the edit is in force", SOON, || async {
            let resource = fleet.settle("reports").await;
            let pods = fleet.pods("reports").await;
            let map = fleet.object("api/v1", "configmaps", "reports-policy").await?;
            let document: Value = serde_json::from_str(map["data"]["policy.json"].as_str()?).ok()?;
            let mut is_applied = pods.len() == replicas as usize
                && resource["status"]["policy"]["totalReplicas"] == replicas
                && document["policy"]["rateLimit"]["capacity"] == 300 + round
                && document["revision"] == resource["status"]["policy"]["revision"]
                && fleet.deployment("reports").await["spec"]["replicas"] == replicas;
            for pod in pods {
                let state = fleet.get_from_pod(&name_of(&pod), 3008, "/policyz").await.ok()?;
                is_applied &= state["revision"] == document["revision"];
            }
            is_applied.then_some(())
        })
        .await;
    }
    fleet.kubectl(&["rollout", "status", "deployment/phase6-operator", "--timeout=60s"]).await;
}

pub async fn pods_keep_their_policy_while_the_api_server_is_down(fleet: &Fleet) {
    let seconds = if is_full() { 60 } else { 20 };
    fleet.settle_all().await;
    let pods: Vec<String> = fleet.pods("budget").await.iter().map(name_of).collect();
    let before = fleet.get_from_pod(&pods[0], 3003, "/policyz").await.unwrap();
    let urls = [format!("http://budget.{}.svc.cluster.local:3003/api/v1/status", fleet.namespace)];
    fleet.patch("budget", json!({"rateLimit": {"mode": "Off"}})).await;
    fleet.settle("budget").await;
    fleet.start_load("load-orphans", 50, 50 * (seconds + 10), &urls).await;
    control("pause", "apiserver").await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    control("resume", "apiserver").await;
    wait_until("the API server responds again", SOON, || async {
        fleet.try_kubectl(&["get", "p6"]).await.ok()
    })
    .await;
    let load = fleet.end_load("load-orphans", Duration::from_mins(2)).await;
    assert_eq!(load.results.get("200"), Some(&load.sent), "{load:?}");
    let after = fleet.get_from_pod(&pods[0], 3003, "/policyz").await.unwrap();
    assert_eq!(after["uid"], before["uid"]);
    // The next edit takes effect within the time in which a broken watch is noticed.
    fleet.patch("budget", json!({"rateLimit": {"mode": "Enforce"}})).await;
    fleet.settle("budget").await;
    let pods = fleet.pods("budget").await;
    assert!(pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 0));
    let resource = fleet.resource("budget").await;
    assert_eq!(condition(&resource, "Degraded").unwrap()["status"], "False");
}
