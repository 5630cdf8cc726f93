//! Installation: the chart, the rights of its accounts, the definition, and eight services.

use http::Request;
use serde_json::json;

use phase6_tests::root;

use crate::{
    fleet::{Fleet, SOON, apply_definition, values},
    kubernetes::{run, try_run, wait_until},
};

pub async fn a_request_through_the_gateway_to_budget_has_one_trace(fleet: &Fleet) {
    fleet.patch("web", json!({"tracing": {"samplingRate": 1.0}})).await;
    fleet.patch("budget", json!({"tracing": {"samplingRate": 1.0}})).await;
    fleet.settle_all().await;
    let path = format!("/api/v1/namespaces/{}/services/web:3000/proxy/api/v1/budget", fleet.namespace);
    let request = Request::get(path).header("x-api-key", fleet.key().await).body(vec![]).unwrap();
    let request = request.map(kube::client::Body::from);
    let response = fleet.client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let trace = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut spans = Vec::new();
    for (name, port) in [("web", 3000), ("budget", 3003)] {
        for pod in fleet.pods(name).await {
            let pod = pod["metadata"]["name"].as_str().unwrap();
            let request = Request::get(format!(
                "/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/api/v1/system/observability",
                fleet.namespace
            ));
            let request = request.header("x-api-key", fleet.key().await).body(vec![]).unwrap();
            let report: serde_json::Value = fleet.client.request(request).await.unwrap();
            let all = report["tracer"]["spans"].as_array().unwrap().clone();
            spans.extend(all.into_iter().filter(|span| span["traceId"] == trace).map(|span| (name, span)));
        }
    }
    let find = |name: &str, kind: &str| {
        let found = spans.iter().find(|(from, span)| *from == name && span["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} span of {name} in {spans:?}")).1.clone()
    };
    assert_eq!(find("budget", "server")["parentSpanId"], find("web", "client")["spanId"]);
}

pub async fn every_pod_meets_the_restricted_standard_and_may_read_only_its_own_policy(fleet: &Fleet) {
    // The namespace enforces `restricted`, so every running pod meets it.
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

/// Values with which the snapshots are rendered. Existing Secrets, because generated keys are random.
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

pub async fn the_chart_passes_lint_and_renders_as_committed(_fleet: &Fleet) {
    let chart = root().join("charts/phase6").to_string_lossy().into_owned();
    run("helm", &["lint", "--strict", &chart]).await;
    for (i, values) in RENDERED.iter().enumerate() {
        let mut words =
            vec!["template", "phase6", &chart, "--namespace", "phase6-system", "--kube-version", "1.34.0"];
        words.extend(*values);
        insta::assert_snapshot!(format!("chart-{i}"), run("helm", &words).await);
    }
    // These objects cannot be applied here, because the cluster lacks their definitions.
    let all =
        "monitoring.dashboards.enabled=true,monitoring.rules.enabled=true,monitoring.podMonitor.enabled=true";
    let words = ["template", "phase6", &chart, "--kube-version", "1.34.0", "--set", all];
    let rendered = run("helm", &[&words[..], &["--show-only", "templates/monitoring.yaml"]].concat()).await;
    for expected in [
        "kind: ConfigMap",
        "  phase6-fleet.json: |\n    {\n",
        "  phase6-operator.json: |\n    {\n",
        "kind: PrometheusRule",
        "\nspec:\n  # Prometheus alerting rules",
        "\n  groups:\n    - name: phase6-services\n",
        "kind: PodMonitor\nmetadata:\n  name: phase6-operator\n",
    ] {
        assert!(rendered.contains(expected), "{expected} is not in {rendered}");
    }
    let has_service_monitor = rendered.contains("phase6-services\n  labels");
    assert!(!has_service_monitor, "the operator, not the chart, creates the monitors of services");
    for invalid in
        ["database.urll=x", "operator.replicas=0", "image.pullPolicy=Sometimes", "demo.enabled=yes"]
    {
        let result =
            try_run("helm", &["template", "phase6", &chart, "--kube-version", "1.34.0", "--set", invalid])
                .await;
        assert!(result.is_err(), "{invalid} is accepted");
    }
}

/// With `operator.watchNamespaces` the operator has rights and sees resources only in these namespaces.
pub async fn an_operator_can_be_limited_to_one_namespace(fleet: &Fleet) {
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
    // Once this edit is applied, the operator would have seen the other resource too.
    fleet.patch("meta", json!({"tracing": {"samplingRate": 0.45}})).await;
    fleet.settle("meta").await;
    let status = ["get", "p6", "elsewhere", "--namespace", "phase6-elsewhere", "-o", "jsonpath={.status}"];
    assert_eq!(run("kubectl", &status).await, "");
    run("kubectl", &["delete", "namespace", "phase6-elsewhere"]).await;
    check_release_with_external_stores(fleet).await;
    fleet.helm_install().await;
}

/// Checks a second release, without the demo, that uses the Redis and the PostgreSQL of the first one.
async fn check_release_with_external_stores(fleet: &Fleet) {
    const NAMESPACE: &str = "phase6-own";
    let template = "--template={{.data.url | base64decode}}";
    let database = fleet.kubectl(&["get", "secret", "phase6-database", template]).await;
    let database =
        database.replace("@phase6-demo-postgres", &format!("@phase6-demo-postgres.{}", fleet.namespace));
    let chart = root().join("charts/phase6").to_string_lossy().into_owned();
    let words = ["install", "own", &chart, "--namespace", NAMESPACE, "--create-namespace"];
    let settings = [
        "demo.enabled=false".to_owned(),
        format!("operator.watchNamespaces={{{NAMESPACE}}}"),
        format!("redis.url=redis://phase6-demo-redis.{}:6379", fleet.namespace),
        format!("database.url={database}"),
        // Nothing listens there, which must not matter.
        "otlp.endpoint=http://collector.nowhere:4318".to_owned(),
    ];
    let all: Vec<String> = words
        .into_iter()
        .map(str::to_owned)
        .chain(values())
        .chain(settings.into_iter().flat_map(|value| ["--set".to_owned(), value]))
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
    for condition in ["Ready", "PolicyApplied"] {
        let condition = format!("--for=condition={condition}");
        run("kubectl", &["wait", "--namespace", NAMESPACE, &condition, "p6/budget", "--timeout=120s"]).await;
    }
    let path = "jsonpath={.status.policy.applied} {.status.policy.dividedBy}";
    let status = run("kubectl", &["get", "--namespace", NAMESPACE, "p6", "budget", "-o", path]).await;
    assert_eq!(status, "2/2 1", "both replicas draw on one bucket in the configured Redis");
    let path = "jsonpath={range .spec.template.spec.containers[0].env[*]}{.name}={.value}{'\\n'}{end}";
    let environment =
        run("kubectl", &["get", "--namespace", NAMESPACE, "deploy", "budget", "-o", path]).await;
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.nowhere:4318\n";
    assert!(environment.contains(endpoint), "{environment}");
    assert!(environment.contains("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf\n"), "{environment}");
    let policy =
        ["get", "--namespace", NAMESPACE, "networkpolicy", "budget", "-o", "jsonpath={.spec.egress}"];
    assert!(run("kubectl", &policy).await.contains("4318"), "pods may connect to the collector");
    run("helm", &["uninstall", "own", "--namespace", NAMESPACE]).await;
    run("kubectl", &["delete", "namespace", NAMESPACE]).await;
}

pub async fn kubectl_get_explain_and_scale_work_on_resources(fleet: &Fleet) {
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

/// The installed definition lacks one field, as an older one would.
pub async fn the_definition_can_be_upgraded_while_resources_run(fleet: &Fleet) {
    let definition = "phase6services.phase6.dev";
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/tracing/properties\
                /targetSpansPerSecond";
    let older = json!([{"op": "remove", "path": path}]).to_string();
    fleet.kubectl(&["patch", "crd", definition, "--type=json", "-p", &older]).await;
    let edit = json!({"spec": {"tracing": {"targetSpansPerSecond": 50}}}).to_string();
    wait_until("the API server drops the field", SOON, || async {
        let edited = fleet
            .try_kubectl(&["patch", "p6", "coach", "--type=merge", "--dry-run=server", "-p", &edit])
            .await;
        edited.is_ok_and(|output| output.contains("no change")).then_some(())
    })
    .await;
    let before = fleet.pods("coach").await;
    apply_definition().await;
    wait_until("the API server keeps the field", SOON, || async {
        fleet.try_kubectl(&["patch", "p6", "coach", "--type=merge", "-p", &edit]).await.ok()?;
        let resource = fleet.resource("coach").await;
        (resource["spec"]["tracing"]["targetSpansPerSecond"] == 50).then_some(())
    })
    .await;
    fleet.settle("coach").await;
    let names = |pods: &[serde_json::Value]| {
        pods.iter().map(|pod| pod["metadata"]["name"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&fleet.pods("coach").await), "a pod was replaced");
    fleet.patch("coach", json!({"tracing": {"targetSpansPerSecond": null}})).await;
    fleet.settle("coach").await;
}

/// The definition of monitors comes with the Prometheus operator; an empty one with its name is enough here.
pub async fn service_monitors_are_created_where_their_definition_exists(fleet: &Fleet) {
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
    let monitor = wait_until("budget is monitored", SOON, || async {
        fleet.object("apis/monitoring.coreos.com/v1", "servicemonitors", "budget").await
    })
    .await;
    let service = fleet.object("api/v1", "services", "budget").await.unwrap();
    let endpoint = &monitor["spec"]["endpoints"][0];
    let ports = service["spec"]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == endpoint["port"]), "{monitor}");
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&service["metadata"]["labels"][label], value, "the monitor does not select the Service");
    }
    run("kubectl", &["delete", "crd", definition]).await;
    restart().await;
    fleet.settle_all().await;
}
