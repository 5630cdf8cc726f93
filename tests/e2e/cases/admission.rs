//! Validation by the API server and by the program, and resources that cannot be applied.

use std::time::Duration;

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use phase6_manifest::check;
use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, SOON, apply_definition, condition},
    kubernetes::wait_until,
};

/// A generator of random numbers from a seed.
struct SeededRng(u64);

impl SeededRng {
    /// Returns a number from 0 to `end - 1`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn choose<'a>(&mut self, choices: &'a [Value]) -> &'a Value {
        &choices[self.below(choices.len())]
    }
}

/// Generates a resource with random fields, most of whose values are valid.
fn generate(rng: &mut SeededRng) -> Value {
    let choices: [(&str, Vec<Value>); 22] = [
        ("service", vec![json!("budget"), json!("web"), json!("reports"), json!("budgets"), json!(3)]),
        ("replicas", vec![json!(1), json!(0), json!(100), json!(101), json!(-1), json!("2")]),
        (
            "autoscaling",
            vec![
                json!({"minReplicas": 1, "maxReplicas": 3}),
                json!({"minReplicas": 4, "maxReplicas": 3}),
                json!({"maxReplicas": 2, "targetCpuPercent": 0}),
                json!({"minReplicas": 1}),
            ],
        ),
        ("image", vec![json!("registry.example/a:1"), json!("")]),
        ("cache.ttl", vec![json!("5s"), json!("250ms"), json!("5"), json!("-1s"), json!(5)]),
        ("cache.staleWhileRevalidate", vec![json!("1s"), json!("0s"), json!("soon")]),
        ("cache.staleIfError", vec![json!("60s"), json!("1h"), json!("")]),
        ("cache.maxEntries", vec![json!(1), json!(10_000), json!(0), json!(1.5)]),
        ("rateLimit.capacity", vec![json!(1), json!(100), json!(0), json!(1_000_001), json!("9")]),
        ("rateLimit.refillPerSecond", vec![json!(1), json!(0.5), json!(0), json!(1_000_001)]),
        ("rateLimit.key", vec![json!("Client"), json!("Ip"), json!("Header"), json!("client")]),
        ("rateLimit.headerName", vec![json!("x-team"), json!("a b"), json!("")]),
        ("rateLimit.scope", vec![json!("Shared"), json!("PerReplica"), json!("Both")]),
        ("rateLimit.mode", vec![json!("Enforce"), json!("Shadow"), json!("Off"), json!(true)]),
        ("rateLimit.onBackendFailure", vec![json!("LocalShare"), json!("Allow"), json!("Fail")]),
        (
            "rateLimit.overrides",
            vec![
                json!([{"match": {"path": "/a", "method": "POST"}, "capacity": 1, "refillPerSecond": 1}]),
                json!([{"match": {"path": "a"}, "capacity": 1, "refillPerSecond": 1}]),
                json!([{"match": {}, "capacity": 1, "refillPerSecond": 1}]),
                json!([{"match": {"method": "BREW"}, "capacity": 1, "refillPerSecond": 1}]),
            ],
        ),
        ("tracing.samplingRate", vec![json!(0), json!(0.5), json!(1), json!(1.1), json!(-0.1)]),
        ("tracing.targetSpansPerSecond", vec![json!(1), json!(50), json!(0), json!(-1)]),
        ("tracing.keepSlowerThan", vec![json!("500ms"), json!("1 s")]),
        ("circuitBreaker.failureRatio", vec![json!(0.5), json!(1), json!(0), json!(1.5)]),
        ("circuitBreaker.openFor", vec![json!("30s"), json!("0s"), json!("forever")]),
        ("circuitBreaker.halfOpenProbes", vec![json!(1), json!(0), json!(1000)]),
    ];
    let mut spec = json!({"service": "budget"});
    for (path, values) in &choices {
        // Few fields at a time, so that many resources are valid.
        if rng.below(6) > 0 {
            continue;
        }
        let mut field = &mut spec;
        for part in path.split('.') {
            field = &mut field[part];
        }
        // The first value of each list is valid, and the most frequent one.
        *field = if rng.below(4) > 0 { values[0].clone() } else { rng.choose(values).clone() };
    }
    // Required fields of a section are present in most resources.
    for (section, field, value) in [
        ("cache", "ttl", json!("5s")),
        ("rateLimit", "capacity", json!(9)),
        ("rateLimit", "refillPerSecond", json!(9)),
    ] {
        if spec[section].is_object() && spec[section][field].is_null() && rng.below(10) > 0 {
            spec[section][field] = value;
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
    json!({
        "apiVersion": "phase6.dev/v1alpha1",
        "kind": "Phase6Service",
        "metadata": {"name": "generated"},
        "spec": spec,
    })
}

pub async fn the_api_server_and_the_validation_in_process_agree(fleet: &Fleet) {
    let kind = GroupVersionKind::gvk("phase6.dev", "v1alpha1", "Phase6Service");
    let api: Api<DynamicObject> =
        Api::namespaced_with(fleet.client.clone(), &fleet.namespace, &ApiResource::from_gvk(&kind));
    let strict = PostParams { dry_run: true, ..PostParams::default() };
    let mut rng = SeededRng(6);
    let (mut accepted, mut rejected) = (0, 0);
    while accepted + rejected < 500 {
        let resource = generate(&mut rng);
        let violations = check(&resource);
        let object: DynamicObject = serde_json::from_value(resource.clone()).unwrap();
        match api.create(&strict, &object).await {
            Ok(_) => {
                accepted += 1;
                assert!(violations.is_empty(), "accepted by the API server only: {violations:?}: {resource}");
            }
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 400 => {
                rejected += 1;
                assert!(!violations.is_empty(), "rejected by the API server only: {status}: {resource}");
            }
            Err(error) => panic!("{error}: {resource}"),
        }
    }
    println!("500 generated resources: {accepted} accepted and {rejected} rejected by both");
    assert!(accepted > 50 && rejected > 50, "{accepted} accepted, {rejected} rejected");
}

pub async fn invalid_edits_are_rejected_with_an_explanation(fleet: &Fleet) {
    let before = fleet.settle("budget").await;
    let both = json!({"replicas": 1, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}});
    for (spec, sentence) in [
        (json!({"service": "web"}), "service cannot be changed; create another resource instead"),
        (both, "replicas and autoscaling exclude each other; set at most one of them"),
        (json!({"rateLimit": {"key": "Header"}}), "headerName must be given when key is Header"),
        (json!({"tracing": {"samplingRate": 2}}), "spec.tracing.samplingRate"),
    ] {
        let patch = json!({ "spec": spec }).to_string();
        let result = fleet.try_kubectl(&["patch", "p6", "budget", "--type=merge", "-p", &patch]).await;
        let error = result.expect_err("the edit is invalid");
        assert!(error.contains(sentence), "{error}");
    }
    assert_eq!(fleet.resource("budget").await["spec"], before["spec"]);
    // Valid manifests are applied without a warning.
    let file = phase6_tests::root().join("crds/examples/fleet.yaml").to_string_lossy().into_owned();
    let mut command = tokio::process::Command::new("kubectl");
    command.args(["apply", "--dry-run=server", "-n", &fleet.namespace, "-f", &file]);
    let output = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let warnings: Vec<&str> =
        errors.lines().filter(|line| line.starts_with("Warning") && !line.contains("last-applied")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

pub async fn a_malformed_object_in_storage_does_not_stall_other_resources(fleet: &Fleet) {
    // An older definition, without validation, would have admitted such an object.
    let definition = "phase6services.phase6.dev";
    let schema = fleet.kubectl(&["get", "crd", definition, "-o", "json"]).await;
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut versions = schema["spec"]["versions"].clone();
    versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let loose = json!({"spec": {"versions": versions}}).to_string();
    fleet.kubectl(&["patch", "crd", definition, "--type=merge", "-p", &loose]).await;
    let store = async |name: &str, spec: Value| {
        let stored = json!({
            "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": name}, "spec": spec,
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), stored.to_string()).unwrap();
        let path = file.path().to_string_lossy().into_owned();
        wait_until("the malformed object is stored", Duration::from_secs(30), || async {
            fleet.try_kubectl(&["apply", "--validate=false", "-f", &path]).await.ok()
        })
        .await;
    };
    // One has a value outside of its range, the other values of the wrong type.
    store("malformed", json!({"service": "budget", "tracing": {"samplingRate": 7}})).await;
    store("untyped", json!({"service": "budget", "cache": {"ttl": 5}, "rateLimit": "none"})).await;
    apply_definition().await;

    let stalled = wait_until("the status reports the error", Duration::from_secs(30), || async {
        let resource = fleet.resource("malformed").await;
        let stalled = condition(&resource, "Stalled").cloned()?;
        (stalled["status"] == "True").then_some(stalled)
    })
    .await;
    assert_eq!(stalled["reason"], "InvalidSpec");
    assert!(stalled["message"].as_str().unwrap().contains("`spec.tracing.samplingRate` is 7"), "{stalled}");
    // The API server accepts no status of an object with values of the wrong type, so an event reports it.
    wait_until("an event reports the error", Duration::from_secs(30), || async {
        let events = fleet.kubectl(&["get", "events", "--field-selector=involvedObject.name=untyped"]).await;
        events.contains("`spec.cache.ttl` is 5; accepted: a duration").then_some(())
    })
    .await;
    fleet.patch("meta", json!({"tracing": {"samplingRate": 0.33}})).await;
    fleet.settle("meta").await;
    assert!(fleet.pods("malformed").await.is_empty());
    fleet.kubectl(&["delete", "p6", "malformed", "untyped"]).await;
}

pub async fn objects_of_other_owners_are_not_adopted(fleet: &Fleet) {
    fleet.kubectl(&["create", "service", "clusterip", "taken", "--tcp=80:80"]).await;
    let resource = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "taken"},
        "spec": {"service": "meta", "replicas": 0},
    });
    fleet.apply(&resource).await;
    let stalled = wait_until("the status reports the conflict", SOON, || async {
        let resource = fleet.resource("taken").await;
        condition(&resource, "Stalled").filter(|stalled| stalled["status"] == "True").cloned()
    })
    .await;
    assert_eq!(stalled["reason"], "NameTaken");
    assert!(stalled["message"].as_str().unwrap().contains("Service taken exists"), "{stalled}");
    let service = fleet.object("api/v1", "services", "taken").await.unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 80, "the foreign Service is unchanged");
    fleet.kubectl(&["delete", "service", "taken"]).await;
    fleet.settle("taken").await;
    fleet.kubectl(&["delete", "p6", "taken"]).await;
}

pub async fn an_object_that_a_quota_rejects_is_reported_and_created_once_allowed(fleet: &Fleet) {
    fleet.kubectl(&["create", "quota", "no-more", "--hard=count/services=0"]).await;
    let resource = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "refused"},
        "spec": {"service": "meta", "replicas": 1},
    });
    fleet.apply(&resource).await;
    let stalled = wait_until("the status reports the rejected object", SOON, || async {
        let resource = fleet.resource("refused").await;
        condition(&resource, "Stalled").filter(|stalled| stalled["status"] == "True").cloned()
    })
    .await;
    assert_eq!(stalled["reason"], "ApplyRefused");
    let message = stalled["message"].as_str().unwrap();
    assert!(message.contains("Service refused") && message.contains("exceeded quota: no-more"), "{message}");
    fleet.kubectl(&["delete", "quota", "no-more"]).await;
    let resource = fleet.settle("refused").await;
    assert_eq!(condition(&resource, "Stalled").unwrap()["status"], "False");
    fleet.kubectl(&["delete", "p6", "refused"]).await;
}
