//! The rules that a resource must keep, taken from the definition that the API server gets.
//!
//! Structure (types, bounds, unknown fields) is checked against the OpenAPI schema, relations
//! between fields by its CEL rules. Every broken rule is reported, not the first one, and each
//! report says what would have been accepted. Where a field has the wrong shape, what a CEL rule says
//! of the same field is left out: it would only repeat the first complaint.

use std::{
    fmt::{self, Write},
    sync::OnceLock,
};

use jsonschema::error::ValidationErrorKind;
use kube::{
    CustomResourceExt,
    core::cel::{CompiledSchema, ErrorKind, Validator, compile_schema},
};
use serde_json::{Map, Value, json};

use crate::{Phase6Service, ServiceName};

/// One broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Path of the field, as in `spec.rateLimit.overrides[0].capacity`.
    pub field: String,
    /// The value that stands there, if one does.
    pub value: Option<Value>,
    /// What is wrong with it and what would be accepted: the end of a sentence that begins with
    /// the field's path.
    pub complaint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        f.write_str(&self.field)?;
        if let Some(value) = &self.value {
            write!(f, " is {value};")?;
        }
        write!(f, " {}", self.complaint)
    }
}

/// Writes one line whatever it is given: names and values are somebody's text, and a line of a log that they
/// began would look like one of ours.
pub(crate) struct OneLine<W>(pub(crate) W);

impl<W: fmt::Write> fmt::Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '\u{2028}' | '\u{2029}' => write!(self.0, "{}", c.escape_unicode()),
            c if c.is_control() => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

/// The definition as YAML, as `kubectl apply -f crds/` applies it.
pub fn definition_yaml() -> String {
    let body = serde_saphyr::to_string(&Phase6Service::crd()).expect("the definition is plain data");
    format!("# Generated from the types in crds/src by `cargo xtask crd`.\n{body}")
}

/// Checks a new resource; an empty answer is a good one.
pub fn check(resource: &Value) -> Vec<Problem> {
    check_against(resource, None)
}

/// Checks a resource that takes the place of `old`.
pub fn check_update(resource: &Value, old: &Value) -> Vec<Problem> {
    check_against(resource, Some(old))
}

/// Checks the policy of a compiled document by the rules of the resource that it would come from.
/// Fields are named from `policy` on.
pub fn check_policy(policy: &Value) -> Vec<Problem> {
    let mut spec = policy.clone();
    if let Value::Object(fields) = &mut spec {
        // Which service it is for has no bearing on a policy.
        fields.insert("service".into(), json!(ServiceName::Web));
    }
    let resource = json!({
        "apiVersion": "phase6.dev/v1alpha1",
        "kind": "Phase6Service",
        "metadata": {"name": "policy"},
        "spec": spec,
    });
    let mut problems = check(&resource);
    for problem in &mut problems {
        if let Some(rest) = problem.field.strip_prefix("spec") {
            problem.field = format!("policy{rest}");
        }
    }
    problems
}

fn check_against(resource: &Value, old: Option<&Value>) -> Vec<Problem> {
    let rules = rules();
    let mut problems: Vec<Problem> =
        rules.structure.iter_errors(resource).flat_map(|error| structural(&error, rules)).collect();
    let misshapen: Vec<String> = problems.iter().map(|problem| problem.field.clone()).collect();

    let filled = kube::core::cel::apply_defaults(&rules.schema, resource);
    if let Err(broken) = Validator::new().validate_compiled(&rules.relations, &filled, old) {
        for error in &broken {
            let field = error.field_path.trim_start_matches('.').to_owned();
            // A rule that could not even be evaluated met a value of the wrong type.
            let repeats = misshapen.contains(&field)
                || (error.kind != ErrorKind::ValidationFailure && !misshapen.is_empty());
            if !repeats {
                let value = at(resource, &field).filter(|value| !value.is_object()).cloned();
                let complaint = match error.message.strip_prefix("must be ") {
                    Some(words) => format!("accepted: {words}"),
                    None => error.message.clone(),
                };
                problems.push(Problem { field, value, complaint });
            }
        }
    }
    problems.sort_by(|a, b| a.field.cmp(&b.field));
    problems.dedup();
    problems
}

/// Fills in the defaults that the API server would fill in.
pub(crate) fn with_defaults(resource: &Value) -> Value {
    kube::core::cel::apply_defaults(&rules().schema, resource)
}

struct Rules {
    /// The definition's schema.
    schema: Value,
    /// The same, as a JSON schema that also refuses unknown fields.
    strict: Value,
    structure: jsonschema::Validator,
    relations: CompiledSchema,
}

fn rules() -> &'static Rules {
    static RULES: OnceLock<Rules> = OnceLock::new();
    RULES.get_or_init(|| {
        let definition = serde_json::to_value(Phase6Service::crd()).expect("the definition is plain data");
        let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let root = schema["properties"].as_object_mut().expect("the schema has properties");
        root.insert("apiVersion".into(), json!({"type": "string", "enum": ["phase6.dev/v1alpha1"]}));
        root.insert("kind".into(), json!({"type": "string", "enum": ["Phase6Service"]}));
        root.insert("metadata".into(), metadata_schema());
        root.entry("status").or_insert(json!({"type": "object"}));
        schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
        let strict = strict(&schema);
        Rules {
            structure: jsonschema::validator_for(&strict).expect("the definition's schema is well-formed"),
            relations: compile_schema(&schema),
            strict,
            schema,
        }
    })
}

/// The part of an object's metadata that a file may state. The API server has its own rules for
/// it, which are no part of a definition; these are the ones a typing error can break.
fn metadata_schema() -> Value {
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "message": "must be lower-case letters, digits and dashes, starting with a letter",
            }],
        }},
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// Turns a structural schema into a JSON schema that refuses unknown fields, as `kubectl apply`
/// does, and understands `nullable` and `int-or-string`.
fn strict(schema: &Value) -> Value {
    let Value::Object(source) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in source {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                fields.iter().map(|(name, field)| (name.clone(), strict(field))).collect()
            }
            ("items" | "additionalProperties", value) => strict(value),
            ("default" | "format", _) => continue,
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    if source.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        out.insert("type".into(), json!(["integer", "string"]));
    }
    let open = source.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if source.contains_key("properties") && !source.contains_key("additionalProperties") && !open {
        out.insert("additionalProperties".into(), Value::Bool(false));
    }
    if source.get("nullable") == Some(&Value::Bool(true)) {
        if let Some(Value::String(kind)) = source.get("type") {
            out.insert("type".into(), json!([kind, "null"]));
        }
        if let Some(Value::Array(values)) = out.get_mut("enum") {
            values.push(Value::Null);
        }
    }
    Value::Object(out)
}

fn structural(error: &jsonschema::ValidationError<'_>, rules: &Rules) -> Vec<Problem> {
    let pointer = error.instance_path().to_string();
    let path = dotted(&pointer);
    let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|name| Problem {
                field: child(name),
                value: None,
                complaint: format!("is not a known field; {}", known_fields(&rules.strict, &pointer, name)),
            })
            .collect(),
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let node = node(&rules.strict, &format!("{pointer}/{name}"));
            vec![Problem {
                field: child(name),
                value: None,
                complaint: format!("is missing; accepted: {}", accepted(node.unwrap_or(&Value::Null))),
            }]
        }
        _ => vec![Problem {
            field: path,
            value: Some(error.instance().clone().into_owned()),
            complaint: format!(
                "accepted: {}",
                accepted(node(&rules.strict, &pointer).unwrap_or(&Value::Null))
            ),
        }],
    }
}

/// What a schema node accepts, in words.
fn accepted(node: &Value) -> String {
    if let Some(values) = node["enum"].as_array() {
        let names: Vec<String> = values.iter().filter(|v| !v.is_null()).map(plain).collect();
        return if let [only] = names.as_slice() {
            only.clone()
        } else {
            format!("one of {}", names.join(", "))
        };
    }
    // The fields that hold a duration, a path or a name say so in their CEL rule.
    if let Some(message) = node["x-kubernetes-validations"][0]["message"].as_str()
        && let Some(words) = message.strip_prefix("must be ")
    {
        return words.to_owned();
    }
    let kind = match &node["type"] {
        Value::Array(kinds) => kinds[0].as_str(),
        kind => kind.as_str(),
    };
    let range = match (node["minimum"].as_f64(), node["maximum"].as_f64()) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" of at least {min}"),
        (None, Some(max)) => format!(" of at most {max}"),
        (None, None) => String::new(),
    };
    match kind {
        Some("integer") => format!("a whole number{range}"),
        Some("number") => format!("a number{range}"),
        Some("boolean") => "true or false".into(),
        Some("string") => match node["maxLength"].as_u64() {
            Some(max) => format!("a text of {} to {max} characters", node["minLength"].as_u64().unwrap_or(0)),
            None => "a text".into(),
        },
        Some("array") => match node["maxItems"].as_u64() {
            Some(max) => format!("a list of at most {max} items"),
            None => "a list".into(),
        },
        Some("object") => match node["properties"].as_object() {
            Some(fields) => format!("a mapping of {}", names(fields.keys())),
            None => "a mapping".into(),
        },
        _ => "something else".into(),
    }
}

fn known_fields(schema: &Value, pointer: &str, unknown: &str) -> String {
    let Some(fields) = node(schema, pointer).and_then(|node| node["properties"].as_object()) else {
        return "no fields are known here".into();
    };
    let same = |name: &&String| name.eq_ignore_ascii_case(&unknown.replace(['_', '-'], ""));
    match fields.keys().find(same) {
        Some(meant) => format!("accepted: {meant}"),
        None => format!("accepted here: {}", names(fields.keys())),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The schema node that describes the instance at `pointer`.
fn node<'a>(schema: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(schema, |node, token| {
        let name = token.replace("~1", "/").replace("~0", "~");
        match node.get("properties").and_then(|fields| fields.get(&name)) {
            Some(field) => Some(field),
            None => node.get("items").or_else(|| node.get("additionalProperties")),
        }
    })
}

/// `/spec/overrides/0/path` as `spec.overrides[0].path`.
fn dotted(pointer: &str) -> String {
    let mut out = String::new();
    for token in pointer.split('/').skip(1) {
        if token.bytes().all(|b| b.is_ascii_digit()) {
            out.push('[');
            out.push_str(token);
            out.push(']');
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&token.replace("~1", "/").replace("~0", "~"));
        }
    }
    out
}

/// The value at a dotted path.
pub(crate) fn at<'a>(value: &'a Value, dotted: &str) -> Option<&'a Value> {
    dotted.split(['.', '[']).filter(|token| !token.is_empty()).try_fold(value, |value, token| {
        match token.strip_suffix(']').and_then(|index| index.parse::<usize>().ok()) {
            Some(index) => value.get(index),
            None => value.get(token),
        }
    })
}

#[cfg(test)]
mod tests {
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

    fn complaints(spec: Value) -> Vec<String> {
        check(&budget(spec)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_resource_has_no_problems() {
        let none: Vec<String> = vec![];
        assert_eq!(complaints(json!({})), none);
        assert_eq!(
            complaints(json!({
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
    fn every_fault_is_reported_with_what_would_be_accepted() {
        insta::assert_yaml_snapshot!(complaints(json!({
            "service": "bugdet",
            "replicas": -1,
            "cache": {"ttl": "5 sec", "maxEntires": 5, "maxEntries": 0},
            "rateLimit": {"capacity": "100", "refillPerSecond": 0, "key": "client", "headerName": "x"},
            "tracing": {"samplingRate": 15, "sampling_rate": 0.1, "keepErrors": "yes"},
            "circuitBreaker": {"failureRatio": 0, "openFor": "2d", "window": 10},
            "autoscaling": {"minReplicas": 5, "maxReplicas": 2},
        })), @r#"
        - "spec replicas and autoscaling exclude each other: give one of them"
        - spec.autoscaling minReplicas must not be greater than maxReplicas
        - "spec.cache.maxEntires is not a known field; accepted here: maxEntries, staleIfError, staleWhileRevalidate, ttl"
        - "spec.cache.maxEntries is 0; accepted: a whole number from 1 to 1000000"
        - "spec.cache.ttl is \"5 sec\"; accepted: a duration from 0s to 24h, such as 500ms, 5s, 1m30s or 2h"
        - "spec.circuitBreaker.failureRatio is 0; accepted: a number from 0.01 to 1"
        - "spec.circuitBreaker.openFor is \"2d\"; accepted: a duration from 100ms to 1h, such as 500ms, 5s, 1m30s or 2h"
        - "spec.circuitBreaker.window is 10; accepted: a duration from 1s to 10m, such as 500ms, 5s, 1m30s or 2h"
        - "spec.rateLimit.capacity is \"100\"; accepted: a whole number from 1 to 1000000"
        - "spec.rateLimit.headerName is \"x\"; headerName is only used when key is Header"
        - "spec.rateLimit.key is \"client\"; accepted: one of Client, Ip, Global, Header"
        - "spec.rateLimit.refillPerSecond is 0; accepted: a number from 0.001 to 1000000"
        - "spec.replicas is -1; accepted: a whole number from 0 to 100"
        - "spec.service is \"bugdet\"; accepted: one of web, training, meta, budget, coach, segmentation, reports, capabilities"
        - "spec.tracing.keepErrors is \"yes\"; accepted: true or false"
        - "spec.tracing.samplingRate is 15; accepted: a number from 0 to 1"
        - "spec.tracing.sampling_rate is not a known field; accepted: samplingRate"
        "#);
    }

    #[test]
    fn missing_parts_are_named() {
        let problems = check(&json!({"kind": "Phase6Service"}));
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["apiVersion", "metadata", "spec"]);
        insta::assert_yaml_snapshot!(complaints(json!({"cache": {}, "rateLimit": {"overrides": [{"match": {}}]}})), @r#"
        - "spec.cache.ttl is missing; accepted: a duration from 0s to 24h, such as 500ms, 5s, 1m30s or 2h"
        - "spec.rateLimit.capacity is missing; accepted: a whole number from 1 to 1000000"
        - "spec.rateLimit.overrides[0].capacity is missing; accepted: a whole number from 1 to 1000000"
        - "spec.rateLimit.overrides[0].match must name a path, a method or both"
        - "spec.rateLimit.overrides[0].refillPerSecond is missing; accepted: a number from 0.001 to 1000000"
        - "spec.rateLimit.refillPerSecond is missing; accepted: a number from 0.001 to 1000000"
        "#);
    }

    #[test]
    fn a_compiled_policy_keeps_the_rules_of_its_resource() {
        let sound: Phase6Service = serde_json::from_value(budget(json!({
            "cache": {"ttl": "5s"},
            "rateLimit": {"capacity": 1, "refillPerSecond": 1, "key": "Header", "headerName": "x-team"},
        })))
        .unwrap();
        for policy in [phase6_policy::Policy::default(), sound.spec.policy()] {
            assert_eq!(check_policy(&json!(policy)), [], "as it is published");
        }
        let broken: Vec<_> = check_policy(&json!({
            "rateLimit": {"capacity": -5, "refillPerSecond": 0, "headerName": "x"},
            "circuitBreaker": {"halfOpenProbes": 4_294_967_296_i64},
        }))
        .iter()
        .map(ToString::to_string)
        .collect();
        insta::assert_yaml_snapshot!(broken, @r#"
        - "policy.circuitBreaker.halfOpenProbes is 4294967296; accepted: a whole number from 1 to 100"
        - "policy.rateLimit.capacity is -5; accepted: a whole number from 1 to 1000000"
        - "policy.rateLimit.headerName is \"x\"; headerName is only used when key is Header"
        - "policy.rateLimit.refillPerSecond is 0; accepted: a number from 0.001 to 1000000"
        "#);
        assert_eq!(check_policy(&json!([]))[0].field, "policy");
    }

    #[test]
    fn the_service_of_a_resource_cannot_change() {
        let old = budget(json!({}));
        let mut new = old.clone();
        new["spec"]["service"] = json!("web");
        let problems = check_update(&new, &old);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].field, "spec.service");
        assert_eq!(check_update(&old, &old), []);
    }

    #[test]
    fn every_cel_rule_compiles() {
        assert!(!rules().relations.has_errors(), "{:?}", rules().relations.compilation_errors());
    }

    #[test]
    fn the_schema_holds_no_format_that_the_api_server_warns_about() {
        let text = definition_yaml();
        assert!(!text.contains("format: uint"), "unsigned formats are unknown to Kubernetes");
    }
}
