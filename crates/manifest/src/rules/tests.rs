//! Violations name the field, the value and what is accepted.

use phase6_policy::Policy;

use super::*;

fn budget(spec: Value) -> Value {
    let mut all = json!({"service": "budget"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({
        "apiVersion": "phase6.dev/v1alpha1",
        "kind": "Phase6Service",
        "metadata": {"name": "budget"},
        "spec": all,
    })
}

/// Returns the messages, with `NAMES` for the names of the catalog.
fn messages(spec: Value) -> Vec<String> {
    let names = phase6_catalog::names();
    check(&budget(spec)).iter().map(|violation| violation.to_string().replace(&names, "NAMES")).collect()
}

#[test]
fn a_valid_resource_has_no_violations() {
    let none: Vec<String> = vec![];
    assert_eq!(messages(json!({})), none);
    assert_eq!(
        messages(json!({
            "replicas": 2,
            "cache": {"ttl": "5s", "staleWhileRevalidate": "2s", "staleIfError": "60s", "maxEntries": 10},
            "rateLimit": {"capacity": 100, "refillPerSecond": 10, "key": "Header", "headerName": "x-team",
                "overrides": [{"match": {"path": "/api/*", "method": "POST"}, "capacity": 1, "refillPerSecond": 0.5}]},
            "tracing": {"samplingRate": 0.15, "targetSpansPerSecond": 50},
            "circuitBreaker": {"window": "10s"},
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": 1}},
        })),
        none
    );
}

#[test]
fn reports_every_violation_with_what_is_accepted() {
    insta::assert_yaml_snapshot!(messages(json!({
        "service": "bugdet",
        "replicas": -1,
        "cache": {"ttl": "5 sec", "maxEntires": 5, "maxEntries": 0},
        "rateLimit": {"capacity": "100", "refillPerSecond": 0, "key": "client", "headerName": "x"},
        "tracing": {"samplingRate": 15, "sampling_rate": 0.1, "keepErrors": "yes"},
        "circuitBreaker": {"failureRatio": 0, "openFor": "2d", "window": 10},
        "autoscaling": {"minReplicas": 5, "maxReplicas": 2},
    })), @r#"
    - "`spec` is invalid: replicas and autoscaling exclude each other; set at most one of them"
    - "`spec.autoscaling` is invalid: minReplicas must not be greater than maxReplicas"
    - "`spec.cache.maxEntires` is not a known field; did you mean `maxEntries`?"
    - "`spec.cache.maxEntries` is 0; accepted: an integer from 1 to 1000000"
    - "`spec.cache.ttl` is \"5 sec\"; accepted: a duration from 0s to 24h, such as 500ms, 5s, 1m30s or 2h"
    - "`spec.circuitBreaker.failureRatio` is 0; accepted: a number from 0.01 to 1"
    - "`spec.circuitBreaker.openFor` is \"2d\"; accepted: a duration from 100ms to 1h, such as 500ms, 5s, 1m30s or 2h"
    - "`spec.circuitBreaker.window` is 10; accepted: a duration from 1s to 10m, such as 500ms, 5s, 1m30s or 2h"
    - "`spec.rateLimit.capacity` is \"100\"; accepted: an integer from 1 to 1000000"
    - "`spec.rateLimit.headerName` is \"x\"; headerName is only used when key is Header"
    - "`spec.rateLimit.key` is \"client\"; accepted: one of Client, Ip, Global, Header"
    - "`spec.rateLimit.refillPerSecond` is 0; accepted: a number from 0.001 to 1000000"
    - "`spec.replicas` is -1; accepted: an integer from 0 to 100"
    - "`spec.service` is \"bugdet\"; accepted: one of NAMES"
    - "`spec.tracing.keepErrors` is \"yes\"; accepted: true or false"
    - "`spec.tracing.samplingRate` is 15; accepted: a number from 0 to 1"
    - "`spec.tracing.sampling_rate` is not a known field; did you mean `samplingRate`?"
    "#);
}

#[test]
fn missing_fields_are_named() {
    let violations: Vec<_> = check(&json!({"kind": "Phase6Service", "spec": {"service": "web"}}))
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_yaml_snapshot!(violations, @r#"
    - "`apiVersion` is required; accepted: phase6.dev/v1alpha1"
    - "`metadata.name` is required; accepted: lower-case letters, digits and dashes, starting with a letter"
    "#);
    insta::assert_yaml_snapshot!(messages(json!({"cache": {}, "rateLimit": {"overrides": [{"match": {}}]}})), @r#"
    - "`spec.cache.ttl` is required; accepted: a duration from 0s to 24h, such as 500ms, 5s, 1m30s or 2h"
    - "`spec.rateLimit.capacity` is required; accepted: an integer from 1 to 1000000"
    - "`spec.rateLimit.overrides[0].capacity` is required; accepted: an integer from 1 to 1000000"
    - "`spec.rateLimit.overrides[0].match` is invalid: must name a path, a method or both"
    - "`spec.rateLimit.overrides[0].refillPerSecond` is required; accepted: a number from 0.001 to 1000000"
    - "`spec.rateLimit.refillPerSecond` is required; accepted: a number from 0.001 to 1000000"
    "#);
}

#[test]
fn a_compiled_policy_obeys_the_rules_of_its_resource() {
    let valid: Policy = serde_json::from_value(json!({
        "cache": {"ttl": "5s"},
        "rateLimit": {"capacity": 1, "refillPerSecond": 1, "key": "Header", "headerName": "x-team"},
    }))
    .unwrap();
    for policy in [Policy::default(), valid] {
        assert_eq!(check_policy(&json!(policy)), [], "with every default, as it is published");
    }
    let broken: Vec<_> = check_policy(&json!({
        "rateLimit": {"capacity": -5, "refillPerSecond": 0, "headerName": "x"},
        "circuitBreaker": {"halfOpenProbes": 4_294_967_296_i64},
    }))
    .iter()
    .map(ToString::to_string)
    .collect();
    insta::assert_yaml_snapshot!(broken, @r#"
    - "`policy.circuitBreaker.halfOpenProbes` is 4294967296; accepted: an integer from 1 to 100"
    - "`policy.rateLimit.capacity` is -5; accepted: an integer from 1 to 1000000"
    - "`policy.rateLimit.headerName` is \"x\"; headerName is only used when key is Header"
    - "`policy.rateLimit.refillPerSecond` is 0; accepted: a number from 0.001 to 1000000"
    "#);
    assert_eq!(check_policy(&json!([]))[0].field, "policy");
}

#[test]
fn the_service_of_a_resource_cannot_change() {
    let old = budget(json!({}));
    let mut new = old.clone();
    new["spec"]["service"] = json!("web");
    let violations = check_update(&new, &old);
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(violations[0].field, "spec.service");
    assert_eq!(check_update(&old, &old), []);
}
