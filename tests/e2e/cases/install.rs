//! From nothing to eight services.

use http::Request;
use serde_json::json;

use phase6_tests::{root, services};

use crate::{
    fleet::{Fleet, SOON, apply_definition, values},
    kubernetes::{run, try_run, until},
};

pub async fn a_request_goes_through_web_to_budget_under_one_trace(fleet: &Fleet) {
    fleet.patch("web", json!({"tracing": {"samplingRate": 1.0}})).await;
    fleet.patch("budget", json!({"tracing": {"samplingRate": 1.0}})).await;
    for name in services() {
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
    assert!(may("web", &["watch", "endpointslices"]).await);
    assert!(!may("web", &["patch", "endpointslices"]).await);
    assert!(may("phase6-operator", &["patch", "deployments"]).await);
    assert!(!may("phase6-operator", &["get", "secrets"]).await);
    assert!(!may("phase6-operator", &["create", "pods"]).await);
    assert!(!may("phase6-operator", &["patch", "phase6services"]).await);
}

/// The values that the snapshots below are rendered with: no Secret with a random key.
const RENDERED: [&[&str]; 3] = [
    &["--set", "access.existingSecret=access,database.existingSecret=database"],
    &[
        "--set",
        "access.existingSecret=access,database.existingSecret=database,image.tag=v2,image.pullPolicy=Always",
        "--set",
        "operator.watchNamespaces={a,b},networkPolicy.enabled=false,imagePullSecrets={registry}",
    ],
    &["--set", "access.existingSecret=access,database.existingSecret=database,demo.enabled=true"],
];

pub async fn the_chart_is_well_formed_and_renders_what_it_did(_fleet: &Fleet) {
    let chart = root().join("charts/phase6").to_string_lossy().into_owned();
    run("helm", &["lint", "--strict", &chart]).await;
    for (i, values) in RENDERED.iter().enumerate() {
        let mut words =
            vec!["template", "phase6", &chart, "--namespace", "phase6-system", "--kube-version", "1.34.0"];
        words.extend(*values);
        insta::assert_snapshot!(format!("chart-{i}"), run("helm", &words).await);
    }
    // What cannot be applied here, because the cluster does not know its kinds.
    let all =
        "monitoring.dashboards.enabled=true,monitoring.rules.enabled=true,monitoring.podMonitor.enabled=true";
    let words = ["template", "phase6", &chart, "--kube-version", "1.34.0", "--set", all];
    let told = run("helm", &[&words[..], &["--show-only", "templates/monitoring.yaml"]].concat()).await;
    for wanted in [
        "kind: ConfigMap",
        "  phase6-fleet.json: |\n    {\n",
        "  phase6-operator.json: |\n    {\n",
        "kind: PrometheusRule",
        "\nspec:\n  # Prometheus alerting rules",
        "\n  groups:\n    - name: phase6-services\n",
        "kind: PodMonitor\nmetadata:\n  name: phase6-operator\n",
    ] {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
    assert!(!told.contains("phase6-services\n  labels"), "services have monitors of the operator's");
    for wrong in ["database.urll=x", "operator.replicas=0", "image.pullPolicy=Sometimes", "demo.enabled=yes"]
    {
        let refused =
            try_run("helm", &["template", "phase6", &chart, "--kube-version", "1.34.0", "--set", wrong])
                .await;
        assert!(refused.is_err(), "{wrong} is accepted");
    }
}

/// With `watchNamespaces` the operator has rights, and sees resources, only there.
pub async fn one_namespace_is_enough(fleet: &Fleet) {
    let only = format!("operator.watchNamespaces={{{}}}", fleet.namespace);
    fleet.helm_upgrade(&["--set", &only]).await;
    let roles = run("kubectl", &["get", "clusterroles", "-o", "name"]).await;
    assert!(!roles.contains("phase6"), "{roles}");
    fleet.patch("meta", json!({"tracing": {"samplingRate": 0.44}})).await;
    fleet.settle("meta").await;
    let elsewhere = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "elsewhere"},
        "spec": {"service": "meta", "replicas": 0},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), elsewhere.to_string()).unwrap();
    let path = file.path().to_string_lossy().into_owned();
    run("kubectl", &["create", "namespace", "phase6-elsewhere"]).await;
    run("kubectl", &["apply", "--namespace", "phase6-elsewhere", "-f", &path]).await;
    // An edit that is brought about here shows that there was time to see the other one.
    fleet.patch("meta", json!({"tracing": {"samplingRate": 0.45}})).await;
    fleet.settle("meta").await;
    let status = ["get", "p6", "elsewhere", "--namespace", "phase6-elsewhere", "-o", "jsonpath={.status}"];
    assert_eq!(run("kubectl", &status).await, "");
    run("kubectl", &["delete", "namespace", "phase6-elsewhere"]).await;
    a_release_without_the_demo_takes_the_stores_that_it_is_told_of(fleet).await;
    fleet.helm_install().await;
}

/// Beside the other release, whose operator looks after its own namespace only, and whose stores it uses.
async fn a_release_without_the_demo_takes_the_stores_that_it_is_told_of(fleet: &Fleet) {
    const NAMESPACE: &str = "phase6-own";
    let template = "--template={{.data.url | base64decode}}";
    let database = fleet.kubectl(&["get", "secret", "phase6-database", template]).await;
    let database =
        database.replace("@phase6-demo-postgres", &format!("@phase6-demo-postgres.{}", fleet.namespace));
    let chart = root().join("charts/phase6").to_string_lossy().into_owned();
    let words = ["install", "own", &chart, "--namespace", NAMESPACE, "--create-namespace"];
    let own = [
        "demo.enabled=false".to_owned(),
        format!("operator.watchNamespaces={{{NAMESPACE}}}"),
        format!("redis.url=redis://phase6-demo-redis.{}:6379", fleet.namespace),
        format!("database.url={database}"),
        // Nobody is there, and nobody minds.
        "otlp.endpoint=http://collector.nowhere:4318".to_owned(),
    ];
    let all: Vec<String> = words
        .into_iter()
        .map(str::to_owned)
        .chain(values())
        .chain(own.into_iter().flat_map(|value| ["--set".to_owned(), value]))
        .collect();
    run("helm", &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let resource = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "budget"},
        "spec": {"service": "budget", "replicas": 2, "rateLimit": {"capacity": 20, "refillPerSecond": 5}},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), resource.to_string()).unwrap();
    let path = file.path().to_string_lossy().into_owned();
    run("kubectl", &["apply", "--namespace", NAMESPACE, "-f", &path]).await;
    for wanted in ["Ready", "PolicyApplied"] {
        let condition = format!("--for=condition={wanted}");
        run("kubectl", &["wait", "--namespace", NAMESPACE, &condition, "p6/budget", "--timeout=120s"]).await;
    }
    let shown = "jsonpath={.status.policy.applied} {.status.policy.dividedBy}";
    let shown = run("kubectl", &["get", "--namespace", NAMESPACE, "p6", "budget", "-o", shown]).await;
    assert_eq!(shown, "2/2 1", "one bucket, through the Redis that it was told of");
    let told = "jsonpath={range .spec.template.spec.containers[0].env[*]}{.name}={.value}{'\\n'}{end}";
    let told = run("kubectl", &["get", "--namespace", NAMESPACE, "deploy", "budget", "-o", told]).await;
    assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.nowhere:4318\n"), "{told}");
    assert!(told.contains("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf\n"), "{told}");
    let policy =
        ["get", "--namespace", NAMESPACE, "networkpolicy", "budget", "-o", "jsonpath={.spec.egress}"];
    assert!(run("kubectl", &policy).await.contains("4318"), "pods may connect to the collector");
    run("helm", &["uninstall", "own", "--namespace", NAMESPACE]).await;
    run("kubectl", &["delete", "namespace", NAMESPACE]).await;
}

pub async fn people_see_what_they_ask_for(fleet: &Fleet) {
    fleet.patch("budget", json!({"tracing": {"samplingRate": 1.0}})).await;
    fleet.settle("budget").await;
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

/// The definition that is there knows one field less than ours.
pub async fn a_definition_is_upgraded_under_running_resources(fleet: &Fleet) {
    let definition = "phase6services.phase6.dev";
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/tracing/properties\
                /targetSpansPerSecond";
    let older = json!([{"op": "remove", "path": path}]).to_string();
    fleet.kubectl(&["patch", "crd", definition, "--type=json", "-p", &older]).await;
    let edit = json!({"spec": {"tracing": {"targetSpansPerSecond": 50}}}).to_string();
    until("the field is not known", SOON, || async {
        let edited = fleet
            .try_kubectl(&["patch", "p6", "coach", "--type=merge", "--dry-run=server", "-p", &edit])
            .await;
        // The API server drops what it does not know, and says so.
        edited.is_ok_and(|told| told.contains("no change")).then_some(())
    })
    .await;
    let before = fleet.pods("coach").await;
    apply_definition().await;
    until("the field is known", SOON, || async {
        fleet.try_kubectl(&["patch", "p6", "coach", "--type=merge", "-p", &edit]).await.ok()?;
        let resource = fleet.resource("coach").await;
        (resource["spec"]["tracing"]["targetSpansPerSecond"] == 50).then_some(())
    })
    .await;
    fleet.settle("coach").await;
    let names = |pods: &[serde_json::Value]| {
        pods.iter().map(|pod| pod["metadata"]["name"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&fleet.pods("coach").await), "no pod was replaced");
    fleet.patch("coach", json!({"tracing": {"targetSpansPerSecond": null}})).await;
    fleet.settle("coach").await;
}

/// Their definition comes with the Prometheus operator; here its name is enough.
pub async fn monitors_are_made_where_the_cluster_knows_them(fleet: &Fleet) {
    let definition = "servicemonitors.monitoring.coreos.com";
    let monitors = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": definition},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    });
    let restart = async || {
        fleet.kubectl(&["rollout", "restart", "deployment/phase6-operator"]).await;
        fleet.kubectl(&["rollout", "status", "deployment/phase6-operator", "--timeout=120s"]).await;
    };
    fleet.apply(&monitors).await;
    run("kubectl", &["wait", "--for=condition=Established", &format!("crd/{definition}"), "--timeout=60s"])
        .await;
    restart().await;
    let monitor = until("budget is monitored", SOON, || async {
        fleet.object("apis/monitoring.coreos.com/v1", "servicemonitors", "budget").await
    })
    .await;
    let service = fleet.object("api/v1", "services", "budget").await.unwrap();
    let endpoint = &monitor["spec"]["endpoints"][0];
    let ports = service["spec"]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == endpoint["port"]), "{monitor}");
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&service["metadata"]["labels"][label], value, "the Service is selected");
    }
    run("kubectl", &["delete", "crd", definition]).await;
    restart().await;
    for name in services() {
        fleet.settle(name).await;
    }
}
