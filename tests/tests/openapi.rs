//! `/openapi.json` of every service: well formed, and true of its responses.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::BTreeSet;

use phase6_tests::{Fleet, services};
use serde_json::{Value, json};

/// Calls `visit` with the name and the value of every field of a document, at any depth.
fn each<'a>(value: &'a Value, visit: &mut impl FnMut(&'a str, &'a Value)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                visit(name, field);
                each(field, visit);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each(item, visit)),
        _ => {}
    }
}

struct Operation {
    method: String,
    path: String,
    description: Value,
}

fn operations(api: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, description) in item.as_object().unwrap() {
            if description["responses"].is_object() {
                let (method, path) = (method.clone(), path.clone());
                all.push(Operation { method, path, description: description.clone() });
            }
        }
    }
    all
}

/// True if `schema` describes a property of this name, itself or in a schema that it refers to.
fn describes_property(api: &Value, schema: &Value, name: &str) -> bool {
    let mut pending = vec![schema.clone()];
    while let Some(part) = pending.pop() {
        if part["properties"][name].is_object() {
            return true;
        }
        if let Some(target) = part["$ref"].as_str() {
            pending.push(api.pointer(target.strip_prefix('#').unwrap()).unwrap().clone());
        }
        pending.extend(part["allOf"].as_array().into_iter().flatten().cloned());
    }
    false
}

#[tokio::test]
async fn every_description_is_well_formed() {
    let fleet = Fleet::start();
    for service in services() {
        let (_, api) = fleet.get(service, "/openapi.json").await;
        assert_eq!(api["openapi"], "3.1.0", "{service}");
        let mut ids = BTreeSet::new();
        for Operation { method, path, description } in operations(&api) {
            let id = description["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{service} {method} {path}: {id} is used twice");
            for (status, response) in description["responses"].as_object().unwrap() {
                let text = response["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{service} {method} {path}: {status} has no description");
            }
        }
        each(&api, &mut |name, target| {
            if let ("$ref", Value::String(target)) = (name, target) {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(api.pointer(pointer).is_some(), "{service}: {target} does not exist");
            }
        });
    }
    assert_eq!(fleet.stop(), Some(0));
}

#[tokio::test]
async fn every_response_to_a_plain_get_matches_its_schema() {
    let fleet = Fleet::start();
    let mut checked = 0;
    for service in services() {
        let (_, api) = fleet.get(service, "/openapi.json").await;
        for Operation { method, path, description } in operations(&api) {
            let has_required = description["parameters"].as_array().is_some_and(|parameters| {
                parameters.iter().any(|parameter| parameter["required"] == json!(true))
            });
            let is_stream = description["responses"]["200"]["content"].get("text/event-stream").is_some();
            if method != "get" || has_required || is_stream {
                continue;
            }
            let (status, body) = fleet.get(service, &path).await;
            let described = &description["responses"][status.to_string()];
            assert!(described.is_object(), "{service} {path}: {status} is not described; {body}");
            let Some(schema) = described["content"].get("application/json").map(|content| &content["schema"])
            else {
                continue;
            };
            // References point into the whole document.
            let resolvable = json!({"allOf": [schema], "components": api["components"]});
            let validator = jsonschema::validator_for(&resolvable).unwrap();
            let errors: Vec<_> = validator
                .iter_errors(&body)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{service} {path}: {errors:?}\n{body}");
            if body["ok"].is_boolean() && path != "/health" {
                assert!(describes_property(&api, schema, "ok"), "{service} {path}: `ok` is not described");
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} responses were checked");
    assert_eq!(fleet.stop(), Some(0));
}
