//! Structural validation: known cases, and a comparison with an independent validator of JSON schemas.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::definition::definition;

/// Keywords that this module applies, and those that do not concern structure.
const KEYWORDS: [&str; 22] = [
    "additionalProperties",
    "default",
    "description",
    "enum",
    // Widths of numbers; their ranges are in `minimum` and `maximum`.
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    // Checked in `rules`.
    "x-kubernetes-validations",
];

fn keywords(schema: &Value, found: &mut BTreeSet<String>) {
    let Value::Object(schema) = schema else { return };
    for (keyword, value) in schema {
        found.insert(keyword.clone());
        match keyword.as_str() {
            "properties" => {
                for field in value.as_object().into_iter().flat_map(Map::values) {
                    keywords(field, found);
                }
            }
            "items" | "additionalProperties" => keywords(value, found),
            _ => {}
        }
    }
}

#[test]
fn every_keyword_of_the_definition_is_handled() {
    let mut found = BTreeSet::new();
    keywords(&definition().schema, &mut found);
    let unknown: Vec<_> = found.iter().filter(|keyword| !KEYWORDS.contains(&keyword.as_str())).collect();
    assert!(unknown.is_empty(), "handle these in structure.rs: {unknown:?}");
}

#[test]
fn a_missing_object_is_reported_by_its_required_fields() {
    let mut violations = vec![];
    validate(&definition().schema, &json!({"kind": "Phase6Service"}), "", &mut violations);
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["apiVersion", "metadata.name", "spec.service"]);
}

#[test]
fn a_null_is_accepted_only_where_the_schema_says_nullable() {
    let of = |schema: Value, value: Value| {
        let mut violations = vec![];
        validate(&schema, &value, "field", &mut violations);
        violations.len()
    };
    assert_eq!(of(json!({"type": "string", "nullable": true}), Value::Null), 0);
    assert_eq!(of(json!({"type": "string", "nullable": true, "enum": ["a"]}), Value::Null), 0);
    assert_eq!(of(json!({"type": "string"}), Value::Null), 1);
    assert_eq!(of(json!({"x-kubernetes-int-or-string": true}), json!(1.5)), 1);
    assert_eq!(of(json!({"type": "integer"}), json!(5.0)), 0);
}

/// The structural schema as a JSON schema for an independent validator.
fn as_json_schema(schema: &Value) -> Value {
    let Value::Object(source) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (keyword, value) in source {
        let value = match (keyword.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                fields.iter().map(|(name, field)| (name.clone(), as_json_schema(field))).collect()
            }
            ("items" | "additionalProperties", value) => as_json_schema(value),
            ("default" | "format", _) => continue,
            _ => value.clone(),
        };
        out.insert(keyword.clone(), value);
    }
    if schema["x-kubernetes-int-or-string"] == true {
        out.insert("type".into(), json!(["integer", "string"]));
    }
    let is_open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if source.contains_key("properties") && !source.contains_key("additionalProperties") && !is_open {
        out.insert("additionalProperties".into(), false.into());
    }
    if schema["nullable"] == true {
        if let Some(kind) = source.get("type") {
            out.insert("type".into(), json!([kind, "null"]));
        }
        if let Some(Value::Array(values)) = out.get_mut("enum") {
            values.push(Value::Null);
        }
    }
    Value::Object(out)
}

/// Values that are near the bounds of the definition's fields.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..200_000_000).prop_map(Value::from),
        (-2.0f64..2.0).prop_map(Value::from),
        Just(json!(5.0)),
        prop::sample::select(vec!["", "budget", "5s", "Client", "1", "Phase6Service", "a b", "GET"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let names = vec![
            "service",
            "replicas",
            "image",
            "cache",
            "ttl",
            "maxEntries",
            "rateLimit",
            "capacity",
            "refillPerSecond",
            "key",
            "overrides",
            "match",
            "path",
            "method",
            "tracing",
            "samplingRate",
            "resources",
            "limits",
            "requests",
            "claims",
            "name",
            "autoscaling",
            "minReplicas",
            "unknown",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(names), inner, 0..4).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn agrees_with_an_independent_validator(spec in value()) {
        let object = json!({
            "apiVersion": "phase6.dev/v1alpha1",
            "kind": "Phase6Service",
            "metadata": {"name": "budget"},
            "spec": spec,
        });
        let mut violations = vec![];
        validate(&definition().schema, &object, "", &mut violations);
        let peer = jsonschema::validator_for(&as_json_schema(&definition().schema)).unwrap();
        prop_assert_eq!(violations.is_empty(), peer.is_valid(&object), "{}: {:?}", object, violations);
    }
}
