//! Objects that remain after a resource is deleted or a release is uninstalled.

use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, SOON},
    kubernetes::{run, wait_until},
};

const KINDS: &str = "deployments,replicasets,services,serviceaccounts,configmaps,roles,rolebindings,horizontalpodautoscalers,networkpolicies,poddisruptionbudgets,secrets,leases,pods";

/// Returns the objects in the namespace, without those that every namespace has.
async fn remaining(fleet: &Fleet) -> Vec<String> {
    let list = fleet.kubectl(&["get", KINDS, "-o", "json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let items = list["items"].as_array().unwrap();
    let named = items.iter().map(|item| {
        format!("{}/{}", item["kind"].as_str().unwrap(), item["metadata"]["name"].as_str().unwrap())
    });
    let of_every_namespace = ["ServiceAccount/default", "ConfigMap/kube-root-ca.crt", "Service/kubernetes"];
    named.filter(|name| !of_every_namespace.contains(&name.as_str())).collect()
}

pub async fn deleting_a_resource_removes_all_of_its_objects(fleet: &Fleet) {
    fleet.kubectl(&["delete", "p6", "segmentation"]).await;
    wait_until("all objects of the resource are gone", SOON, || async {
        (!remaining(fleet).await.iter().any(|name| name.contains("segmentation"))).then_some(())
    })
    .await;
    fleet.helm_install().await;
}

pub async fn uninstalling_leaves_only_definitions_and_resources(fleet: &Fleet) {
    // A resource that does not belong to the release.
    let own = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "mine"},
        "spec": {"service": "reports", "replicas": 1},
    });
    fleet.apply(&own).await;
    fleet.settle("mine").await;
    run("helm", &["uninstall", &fleet.release, "--namespace", &fleet.namespace]).await;
    wait_until("only objects of the other resource remain", SOON, || async {
        remaining(fleet).await.iter().all(|name| name.contains("mine")).then_some(())
    })
    .await;
    run("kubectl", &["get", "crd", "phase6services.phase6.dev"]).await;
    for cluster_wide in ["clusterroles", "clusterrolebindings"] {
        let all = run("kubectl", &["get", cluster_wide, "-o", "name"]).await;
        assert!(!all.contains("phase6"), "{all}");
    }
    // Without an operator its pods keep running, and are still deleted with the resource.
    assert_eq!(fleet.pods("mine").await.len(), 1);
    fleet.kubectl(&["delete", "p6", "mine"]).await;
    wait_until("nothing remains", SOON, || async { remaining(fleet).await.is_empty().then_some(()) }).await;
    // The release can be installed again over the remaining definition.
    fleet.helm_install().await;
    fleet.settle_all().await;
}
