//! What a service says of itself in `/openapi.json` is what it does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;

use phase6_tests::{Fleet, services};
use serde_json::{Value, json};

/// Every object of a kind anywhere in a document.
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

fn operations(api: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["responses"].is_object() {
                all.push((method.clone(), path.clone(), operation.clone()));
            }
        }
    }
    all
}

#[tokio::test]
async fn every_description_is_well_formed() {
    let fleet = Fleet::start();
    for service in services() {
        let (_, api) = fleet.get(service, "/openapi.json").await;
        assert_eq!(api["openapi"], "3.1.0", "{service}");
        let mut ids = BTreeSet::new();
        for (method, path, operation) in operations(&api) {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{service} {method} {path}: {id} is used twice");
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let said = answer["description"].as_str().unwrap_or_default();
                assert!(!said.is_empty(), "{service} {method} {path}: {status} has no description");
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
async fn every_answer_to_a_plain_get_is_as_described() {
    let fleet = Fleet::start();
    let mut checked = 0;
    for service in services() {
        let (_, api) = fleet.get(service, "/openapi.json").await;
        for (method, path, operation) in operations(&api) {
            let needs = operation["parameters"].as_array().is_some_and(|parameters| {
                parameters.iter().any(|parameter| parameter["required"] == json!(true))
            });
            let stream = operation["responses"]["200"]["content"].get("text/event-stream").is_some();
            if method != "get" || needs || stream {
                continue;
            }
            let (status, answer) = fleet.get(service, &path).await;
            let described = &operation["responses"][status.to_string()];
            assert!(described.is_object(), "{service} {path}: {status} is not described; {answer}");
            let Some(schema) = described["content"].get("application/json").map(|content| &content["schema"])
            else {
                continue;
            };
            // References lead into the whole document.
            let schema = json!({"allOf": [schema], "components": api["components"]});
            let validator = jsonschema::validator_for(&schema).unwrap();
            let errors: Vec<_> = validator
                .iter_errors(&answer)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{service} {path}: {errors:?}\n{answer}");
            if answer["ok"].is_boolean() && path != "/health" {
                let mut said = false;
                let mut look = vec![schema["allOf"][0].clone()];
                while let Some(part) = look.pop() {
                    said |= part["properties"]["ok"].is_object();
                    if let Some(target) = part["$ref"].as_str() {
                        look.push(api.pointer(target.strip_prefix('#').unwrap()).unwrap().clone());
                    }
                    look.extend(part["allOf"].as_array().into_iter().flatten().cloned());
                }
                assert!(said, "{service} {path}: `ok` is not described");
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} answers were checked");
    assert_eq!(fleet.stop(), Some(0));
}
