//! What is left when something goes.

use phase6_tests::services;
use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, SOON},
    kubernetes::{run, until},
};

const KINDS: &str = "deployments,replicasets,services,serviceaccounts,configmaps,roles,rolebindings,horizontalpodautoscalers,networkpolicies,poddisruptionbudgets,secrets,leases,pods";

/// Objects in the namespace that are not the namespace's own.
async fn left(fleet: &Fleet) -> Vec<String> {
    let list = fleet.kubectl(&["get", KINDS, "-o", "json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let items = list["items"].as_array().unwrap();
    let named = items.iter().map(|item| {
        format!("{}/{}", item["kind"].as_str().unwrap(), item["metadata"]["name"].as_str().unwrap())
    });
    let of_namespace = ["ServiceAccount/default", "ConfigMap/kube-root-ca.crt", "Service/kubernetes"];
    named.filter(|name| !of_namespace.contains(&name.as_str())).collect()
}

pub async fn what_a_resource_brought_goes_with_it(fleet: &Fleet) {
    let belongs = |name: &str| name.contains("segmentation");
    fleet.kubectl(&["delete", "p6", "segmentation"]).await;
    until("nothing of it is left", SOON, || async {
        (!left(fleet).await.iter().any(|name| belongs(name))).then_some(())
    })
    .await;
    fleet.helm_install().await;
}

pub async fn uninstalling_leaves_only_definitions_and_resources(fleet: &Fleet) {
    // One resource that is not the release's.
    let own = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "mine"},
        "spec": {"service": "reports", "replicas": 1},
    });
    fleet.apply(&own).await;
    fleet.settle("mine").await;
    run("helm", &["uninstall", &fleet.release, "--namespace", &fleet.namespace]).await;
    until("all but what the remaining resource brought is gone", SOON, || async {
        let left = left(fleet).await;
        left.iter().all(|name| name.contains("mine")).then_some(())
    })
    .await;
    run("kubectl", &["get", "crd", "phase6services.phase6.dev"]).await;
    for cluster_wide in ["clusterroles", "clusterrolebindings"] {
        let all = run("kubectl", &["get", cluster_wide, "-o", "name"]).await;
        assert!(!all.contains("phase6"), "{all}");
    }
    // Without an operator its pods serve on, and go with the resource all the same.
    assert_eq!(fleet.pods("mine").await.len(), 1);
    fleet.kubectl(&["delete", "p6", "mine"]).await;
    until("nothing is left", SOON, || async { left(fleet).await.is_empty().then_some(()) }).await;
    // And a release comes back over what is left.
    fleet.helm_install().await;
    for name in services() {
        fleet.settle(name).await;
    }
}
