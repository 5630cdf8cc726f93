//! What happens when parts fail.

use std::time::Duration;

use phase6_tests::services;
use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, SOON, condition},
    kubernetes::{run, until},
};

/// Stops and resumes a program of the cluster, where the suite was told how.
async fn control(verb: &str, part: &str) {
    let program =
        std::env::var("PHASE6_E2E_CONTROL").expect("PHASE6_E2E_CONTROL is `cargo xtask cluster`'s program");
    run(&program, &["cluster", verb, part]).await;
}

fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

/// While its node's kubelet stands still, a pod stays ready whatever becomes of it: one that was
/// killed cannot be asked, and must not be counted.
pub async fn a_pod_that_cannot_be_asked_is_never_counted(fleet: &Fleet) {
    fleet.patch("meta", json!({"replicas": 2})).await;
    fleet.settle("meta").await;
    control("freeze", "meta").await;
    fleet.patch("meta", json!({"tracing": {"samplingRate": 0.77}})).await;
    let resource = until("the status names the silent pod", Duration::from_secs(20), || async {
        let resource = fleet.resource("meta").await;
        let applied = condition(&resource, "PolicyApplied")?;
        assert_ne!(
            (&applied["status"], &applied["observedGeneration"]),
            (&json!("True"), &resource["metadata"]["generation"]),
            "a frozen pod cannot have said so"
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

/// Pods hear of a policy from the API server, not from their node.
pub async fn edits_are_in_force_while_the_kubelet_stands_still(fleet: &Fleet) {
    fleet.settle("training").await;
    control("pause", "kubelet").await;
    for edit in 1..=5 {
        fleet.patch("training", json!({"tracing": {"samplingRate": 0.1 * f64::from(edit)}})).await;
        fleet.settle("training").await;
    }
    control("resume", "kubelet").await;
    fleet.patch("training", json!({"tracing": {"samplingRate": 0.15}})).await;
    fleet.settle("training").await;
    until("the node is ready again", SOON, || async {
        let ready = "{.items[*].status.conditions[?(@.type=='Ready')].status}";
        let told = fleet.kubectl(&["get", "nodes", "-o", &format!("jsonpath={ready}")]).await;
        (!told.contains("False") && !told.contains("Unknown")).then_some(())
    })
    .await;
}

pub async fn killed_pods_and_operators_leave_everything_as_it_was(fleet: &Fleet) {
    let rounds = if std::env::var_os("PHASE6_E2E_FULL").is_some() { 50 } else { 6 };
    for round in 0..rounds {
        // An edit, and the operator dies while it brings it about, a little later each time.
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
        // The status of before the blow may stand until another operator leads: pods are the truth.
        until("what was asked for is there", SOON, || async {
            let resource = fleet.settle("reports").await;
            let pods = fleet.pods("reports").await;
            let map = fleet.object("api/v1", "configmaps", "reports-policy").await?;
            let document: Value = serde_json::from_str(map["data"]["policy.json"].as_str()?).ok()?;
            let mut agreed = pods.len() == replicas as usize
                && resource["status"]["policy"]["totalReplicas"] == replicas
                && document["policy"]["rateLimit"]["capacity"] == 300 + round
                && document["revision"] == resource["status"]["policy"]["revision"]
                && fleet.deployment("reports").await["spec"]["replicas"] == replicas;
            for pod in pods {
                let state = fleet.ask(&name_of(&pod), 3008, "/policyz").await.ok()?;
                agreed &= state["revision"] == document["revision"];
            }
            agreed.then_some(())
        })
        .await;
    }
    fleet.kubectl(&["rollout", "status", "deployment/phase6-operator", "--timeout=60s"]).await;
}

pub async fn pods_keep_their_policy_while_the_api_server_is_gone(fleet: &Fleet) {
    let seconds = if std::env::var_os("PHASE6_E2E_FULL").is_some() { 60 } else { 20 };
    for name in services() {
        fleet.settle(name).await;
    }
    let pods: Vec<String> = fleet.pods("budget").await.iter().map(name_of).collect();
    let before = fleet.ask(&pods[0], 3003, "/policyz").await.unwrap();
    let urls = [format!("http://budget.{}.svc.cluster.local:3003/api/v1/status", fleet.namespace)];
    fleet.patch("budget", json!({"rateLimit": {"mode": "Off"}})).await;
    fleet.settle("budget").await;
    fleet.start_load("load-orphans", 50, 50 * (seconds + 10), &urls).await;
    control("pause", "apiserver").await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    control("resume", "apiserver").await;
    until("the API server answers again", SOON, || async { fleet.try_kubectl(&["get", "p6"]).await.ok() })
        .await;
    let load = fleet.end_load("load-orphans", Duration::from_mins(2)).await;
    assert_eq!(load.results.get("200"), Some(&load.sent), "{load:?}");
    let after = fleet.ask(&pods[0], 3003, "/policyz").await.unwrap();
    assert_eq!(after["uid"], before["uid"]);
    // And the next edit arrives, within the time in which a dead watch is noticed.
    fleet.patch("budget", json!({"rateLimit": {"mode": "Enforce"}})).await;
    fleet.settle("budget").await;
    let restarts = fleet.pods("budget").await;
    assert!(restarts.iter().all(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 0));
    let resource = fleet.resource("budget").await;
    assert_eq!(condition(&resource, "Degraded").unwrap()["status"], "False");
}
