//! What the API server refuses, and that `phase6 explain` refuses the same.

use std::time::Duration;

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use phase6_manifest::check;
use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, SOON, apply_definition, condition},
    kubernetes::until,
};

/// A generator of numbers that gives the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn of<'a>(&mut self, choices: &'a [Value]) -> &'a Value {
        &choices[self.below(choices.len())]
    }
}

/// A resource of fields and values of which most are good and some are not.
fn generated(numbers: &mut Numbers) -> Value {
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
        // Few fields at a time, so that many resources are good.
        if numbers.below(6) > 0 {
            continue;
        }
        let mut at = &mut spec;
        for part in path.split('.') {
            at = &mut at[part];
        }
        // The first value is a good one, and comes most often.
        *at = if numbers.below(4) > 0 { values[0].clone() } else { numbers.of(values).clone() };
    }
    // What a section cannot be without is mostly there.
    for (section, field, value) in [
        ("cache", "ttl", json!("5s")),
        ("rateLimit", "capacity", json!(9)),
        ("rateLimit", "refillPerSecond", json!(9)),
    ] {
        if spec[section].is_object() && spec[section][field].is_null() && numbers.below(10) > 0 {
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

pub async fn the_api_server_and_the_rules_in_process_agree(fleet: &Fleet) {
    let kind = GroupVersionKind::gvk("phase6.dev", "v1alpha1", "Phase6Service");
    let api: Api<DynamicObject> =
        Api::namespaced_with(fleet.client.clone(), &fleet.namespace, &ApiResource::from_gvk(&kind));
    let strict = PostParams { dry_run: true, ..PostParams::default() };
    let mut numbers = Numbers(6);
    let (mut accepted, mut refused) = (0, 0);
    while accepted + refused < 500 {
        let resource = generated(&mut numbers);
        let here = check(&resource);
        let object: DynamicObject = serde_json::from_value(resource.clone()).unwrap();
        match api.create(&strict, &object).await {
            Ok(_) => {
                accepted += 1;
                assert!(here.is_empty(), "accepted by the API server, but here {here:?}: {resource}");
            }
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 400 => {
                refused += 1;
                assert!(!here.is_empty(), "accepted here, but the API server says {status}: {resource}");
            }
            Err(error) => panic!("{error}: {resource}"),
        }
    }
    println!("500 generated resources: {accepted} accepted and {refused} refused by both");
    assert!(accepted > 50 && refused > 50, "{accepted} accepted, {refused} refused");
}

pub async fn invalid_edits_are_refused_with_a_sentence(fleet: &Fleet) {
    let before = fleet.settle("budget").await;
    let both = json!({"replicas": 1, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}});
    for (spec, sentence) in [
        (json!({"service": "web"}), "service cannot be changed: create another resource instead"),
        (both, "replicas and autoscaling exclude each other: give one of them"),
        (json!({"rateLimit": {"key": "Header"}}), "headerName must be given when key is Header"),
        (json!({"tracing": {"samplingRate": 2}}), "spec.tracing.samplingRate"),
    ] {
        let patch = json!({ "spec": spec }).to_string();
        let result = fleet.try_kubectl(&["patch", "p6", "budget", "--type=merge", "-p", &patch]).await;
        let error = result.expect_err("refused");
        assert!(error.contains(sentence), "{error}");
    }
    assert_eq!(fleet.resource("budget").await["spec"], before["spec"]);
    // And what is good is applied without a word.
    let file = phase6_tests::root().join("crds/examples/fleet.yaml").to_string_lossy().into_owned();
    let mut command = tokio::process::Command::new("kubectl");
    command.args(["apply", "--dry-run=server", "-n", &fleet.namespace, "-f", &file]);
    let output = command.output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let warnings: Vec<&str> =
        told.lines().filter(|line| line.starts_with("Warning") && !line.contains("last-applied")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

pub async fn a_malformed_object_that_is_stored_stalls_nobody_else(fleet: &Fleet) {
    // As an older definition, without rules, would have let it in.
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
        until("the malformed object is stored", Duration::from_secs(30), || async {
            fleet.try_kubectl(&["apply", "--validate=false", "-f", &path]).await.ok()
        })
        .await;
    };
    // A value that no rule allows, and one of another type.
    store("malformed", json!({"service": "budget", "tracing": {"samplingRate": 7}})).await;
    store("untyped", json!({"service": "budget", "cache": {"ttl": 5}, "rateLimit": "none"})).await;
    apply_definition().await;

    let stalled = until("the status says what is wrong", Duration::from_secs(30), || async {
        let resource = fleet.resource("malformed").await;
        let stalled = condition(&resource, "Stalled").cloned()?;
        (stalled["status"] == "True").then_some(stalled)
    })
    .await;
    assert_eq!(stalled["reason"], "InvalidSpec");
    assert!(stalled["message"].as_str().unwrap().contains("`spec.tracing.samplingRate` is 7"), "{stalled}");
    // The API server takes no status of an object whose types do not fit: an event says it.
    until("an event says what is wrong", Duration::from_secs(30), || async {
        let told = fleet.kubectl(&["get", "events", "--field-selector=involvedObject.name=untyped"]).await;
        told.contains("`spec.cache.ttl` is 5; accepted: a duration").then_some(())
    })
    .await;
    fleet.patch("meta", json!({"tracing": {"samplingRate": 0.33}})).await;
    fleet.settle("meta").await;
    assert!(fleet.pods("malformed").await.is_empty());
    fleet.kubectl(&["delete", "p6", "malformed", "untyped"]).await;
}

pub async fn an_object_of_somebody_else_is_not_taken_over(fleet: &Fleet) {
    fleet.kubectl(&["create", "service", "clusterip", "taken", "--tcp=80:80"]).await;
    let wanted = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "taken"},
        "spec": {"service": "meta", "replicas": 0},
    });
    fleet.apply(&wanted).await;
    let stalled = until("the status says whose it is", SOON, || async {
        let resource = fleet.resource("taken").await;
        condition(&resource, "Stalled").filter(|stalled| stalled["status"] == "True").cloned()
    })
    .await;
    assert_eq!(stalled["reason"], "NameTaken");
    assert!(stalled["message"].as_str().unwrap().contains("Service taken exists"), "{stalled}");
    let service = fleet.object("api/v1", "services", "taken").await.unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 80, "it is as it was");
    fleet.kubectl(&["delete", "service", "taken"]).await;
    fleet.settle("taken").await;
    fleet.kubectl(&["delete", "p6", "taken"]).await;
}

pub async fn what_a_quota_refuses_is_told_and_done_once_it_may(fleet: &Fleet) {
    fleet.kubectl(&["create", "quota", "no-more", "--hard=count/services=0"]).await;
    let wanted = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "refused"},
        "spec": {"service": "meta", "replicas": 1},
    });
    fleet.apply(&wanted).await;
    let stalled = until("the status says what was refused", SOON, || async {
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
