//! From nothing to eight services.

use http::Request;
use serde_json::json;

use crate::{
    fleet::{Fleet, NAMES},
    kubernetes::try_run,
};

pub async fn a_request_goes_through_web_to_budget_under_one_trace(fleet: &Fleet) {
    fleet.patch("web", json!({"tracing": {"samplingRate": 1.0}})).await;
    fleet.patch("budget", json!({"tracing": {"samplingRate": 1.0}})).await;
    for name in NAMES {
        fleet.settle(name).await;
    }
    let path = format!("/api/v1/namespaces/{}/services/web:3000/proxy/api/v1/budget", fleet.namespace);
    let request = Request::get(path).header("x-api-key", fleet.key().await).body(vec![]).unwrap();
    let request = request.map(kube::client::Body::from);
    let answer = fleet.client.send(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let trace = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut spans = Vec::new();
    for (name, port) in [("web", 3000), ("budget", 3003)] {
        for pod in fleet.pods(name).await {
            let pod = pod["metadata"]["name"].as_str().unwrap();
            // Through the API server, which presents no key: from inside the pod's own port.
            let request = Request::get(format!(
                "/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/api/v1/system/observability",
                fleet.namespace
            ));
            let request = request.header("x-api-key", fleet.key().await).body(vec![]).unwrap();
            let shown: serde_json::Value = fleet.client.request(request).await.unwrap();
            let all = shown["tracer"]["spans"].as_array().unwrap().clone();
            spans.extend(all.into_iter().filter(|span| span["traceId"] == trace).map(|span| (name, span)));
        }
    }
    let find = |name: &str, kind: &str| {
        let found = spans.iter().find(|(from, span)| *from == name && span["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} span of {name} in {spans:?}")).1.clone()
    };
    assert_eq!(find("budget", "server")["parentSpanId"], find("web", "client")["spanId"]);
}

pub async fn every_pod_keeps_to_the_restricted_standard_and_reads_only_its_policy(fleet: &Fleet) {
    // The namespace enforces `restricted`, so every pod that runs keeps to it.
    let namespace = &fleet.namespace;
    let account = |name: &str| format!("--as=system:serviceaccount:{namespace}:{name}");
    let may = |name: &'static str, words: &'static [&'static str]| {
        let account = account(name);
        async move {
            let mut all = vec!["auth", "can-i", account.as_str(), "--namespace", namespace.as_str()];
            all.extend(words);
            try_run("kubectl", &all).await.is_ok()
        }
    };
    assert!(may("budget", &["watch", "configmaps/budget-policy"]).await);
    assert!(!may("budget", &["get", "configmaps/web-policy"]).await);
    assert!(!may("budget", &["list", "configmaps"]).await);
    assert!(!may("budget", &["get", "secrets"]).await);
    assert!(!may("budget", &["get", "pods"]).await);
    assert!(may("phase6-operator", &["patch", "deployments"]).await);
    assert!(!may("phase6-operator", &["get", "secrets"]).await);
    assert!(!may("phase6-operator", &["create", "pods"]).await);
    assert!(!may("phase6-operator", &["patch", "phase6services"]).await);
}

pub async fn people_see_what_they_ask_for(fleet: &Fleet) {
    let table = fleet.kubectl(&["get", "p6"]).await;
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "READY", "REPLICAS", "LIMIT", "TTL", "SAMPLING", "POLICY", "AGE"]);
    let budget = table.lines().find(|line| line.starts_with("budget")).unwrap();
    let cells: Vec<&str> = budget.split_whitespace().collect();
    assert_eq!(cells[1..7], ["True", "1", "100", "5s", "1", "1/1"], "{table}");

    let field = "p6.spec.rateLimit.onBackendFailure";
    let explained = fleet.kubectl(&["explain", field]).await;
    assert!(explained.contains("LocalShare") && explained.contains("Deny"), "{explained}");

    fleet.kubectl(&["scale", "p6/budget", "--replicas=2"]).await;
    let resource = fleet.settle("budget").await;
    assert_eq!(resource["status"]["policy"]["applied"], "2/2");
    fleet.kubectl(&["scale", "p6/budget", "--replicas=1"]).await;
    fleet.settle("budget").await;
}
