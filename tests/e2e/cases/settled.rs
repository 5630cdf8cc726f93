//! What happens when nothing should happen.

use std::{collections::BTreeMap, time::Duration};

use phase6_tests::services;
use serde_json::json;

use crate::{
    fleet::{Fleet, SOON},
    kubernetes::until,
};

/// Where the operator's objects are.
const OWNED: [(&str, &str); 9] = [
    ("api/v1", "configmaps"),
    ("api/v1", "services"),
    ("api/v1", "serviceaccounts"),
    ("apis/apps/v1", "deployments"),
    ("apis/autoscaling/v2", "horizontalpodautoscalers"),
    ("apis/networking.k8s.io/v1", "networkpolicies"),
    ("apis/policy/v1", "poddisruptionbudgets"),
    ("apis/rbac.authorization.k8s.io/v1", "roles"),
    ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
];
const MANAGED: &str = "app.kubernetes.io/managed-by%3Dphase6-operator";

/// Versions of everything that the operator writes.
async fn versions(fleet: &Fleet) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (api, kind) in OWNED.into_iter().chain([("apis/phase6.dev/v1alpha1", "phase6services")]) {
        let selector = if kind == "phase6services" { "" } else { MANAGED };
        for object in fleet.objects(api, kind, selector).await {
            let name = object["metadata"]["name"].as_str().unwrap();
            all.insert(format!("{kind}/{name}"), object["metadata"]["resourceVersion"].to_string());
        }
    }
    all
}

/// Writes that the operator has made so far, by all its replicas.
async fn writes(fleet: &Fleet) -> f64 {
    let selector = "app.kubernetes.io/name%3Dphase6-operator";
    let mut sum = 0.0;
    for pod in fleet.objects("api/v1", "pods", selector).await {
        let pod = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy/metrics", fleet.namespace);
        let request = http::Request::get(path).body(vec![]).unwrap();
        let text = fleet.client.request_text(request).await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with("phase6_operator_writes_total"));
        sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    sum
}

pub async fn nothing_is_written_once_everything_is_as_it_should_be(fleet: &Fleet) {
    for name in services() {
        fleet.settle(name).await;
    }
    let before = until("two looks in a row are the same", SOON, || async {
        let first = versions(fleet).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        (versions(fleet).await == first).then_some(first)
    })
    .await;
    let written = writes(fleet).await;
    assert!(before.len() >= 8 * 8, "{before:?}");
    // Time in which the operator looks twice at what is settled.
    tokio::time::sleep(fleet.resync * 2 + Duration::from_secs(5)).await;
    assert_eq!(versions(fleet).await, before);
    assert_eq!(writes(fleet).await.to_bits(), written.to_bits(), "not even writes that change nothing");
}

pub async fn drift_is_repaired_and_told_and_what_others_added_stays(fleet: &Fleet) {
    let deployment = fleet.deployment("coach").await;
    // What others add is theirs.
    fleet.kubectl(&["annotate", "deployment", "coach", "example.com/note=kept"]).await;
    let image =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/args/0", "value": "explode"}]);
    fleet.kubectl(&["patch", "deployment", "coach", "--type=json", "-p", &image.to_string()]).await;
    fleet.kubectl(&["delete", "service", "coach", "--wait=false"]).await;
    until("the Deployment is put back", SOON, || async {
        let now = fleet.deployment("coach").await;
        (now["spec"]["template"]["spec"] == deployment["spec"]["template"]["spec"]).then_some(())
    })
    .await;
    until("the Service is made again", SOON, || async { fleet.object("api/v1", "services", "coach").await })
        .await;
    let now = fleet.deployment("coach").await;
    assert_eq!(now["metadata"]["annotations"]["example.com/note"], "kept");
    until("both are told", SOON, || async {
        let told = fleet.kubectl(&["get", "events", "--field-selector=reason=Repaired"]).await;
        let both = told.contains(
            "Deployment coach was modified by another client at spec.template.spec.containers[0].args[0]",
        ) && told.contains("Service coach was deleted by another client; recreated");
        both.then_some(())
    })
    .await;
    // A policy that is gone comes back as it was: no replica sees a difference.
    let before = fleet.object("api/v1", "configmaps", "coach-policy").await.unwrap();
    fleet.kubectl(&["delete", "configmap", "coach-policy"]).await;
    let after = until("the policy is there again", SOON, || async {
        fleet.object("api/v1", "configmaps", "coach-policy").await
    })
    .await;
    assert_eq!(after["data"], before["data"]);
    fleet.settle("coach").await;
    // A policy that somebody wrote by hand is replaced by a higher revision.
    let policy = fleet.object("api/v1", "configmaps", "coach-policy").await.unwrap();
    let text = policy["data"]["policy.json"].as_str().unwrap();
    let forged = text
        .replace("\"revision\":", "\"revision\":9")
        .replace("\"samplingRate\":0.1", "\"samplingRate\":0.9");
    assert_ne!(forged, text);
    let patch = json!({"data": {"policy.json": forged}}).to_string();
    fleet.kubectl(&["patch", "configmap", "coach-policy", "--type=merge", "-p", &patch]).await;
    until("the policy is published anew", SOON, || async {
        let policy = fleet.object("api/v1", "configmaps", "coach-policy").await?;
        let document: serde_json::Value =
            serde_json::from_str(policy["data"]["policy.json"].as_str()?).ok()?;
        let revision = document["revision"].as_u64()?;
        (revision > 90 && document["policy"]["tracing"]["samplingRate"] == 0.1).then_some(())
    })
    .await;
    fleet.settle("coach").await;
}
