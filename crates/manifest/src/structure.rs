//! Structural validation: types, bounds, required and unknown fields, as the API server validates an
//! object against the schema of its definition with strict field validation.
//!
//! Understands the keywords that a structural schema of Kubernetes has, no more; a test fails when the
//! definition gains one that is not handled here. Reports every violation, not the first one.

use serde_json::{Map, Value};

use crate::rules::Violation;

/// Similarity, from 0 to 1, from which on a known name is suggested for an unknown one.
const SIMILAR: f64 = 0.85;

/// Appends the violations of `value` against `schema`; `path` is the value's dotted path.
pub(crate) fn validate(schema: &Value, value: &Value, path: &str, violations: &mut Vec<Violation>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if !has_type(schema, value) || !is_within_bounds(schema, value) {
        violations.push(Violation {
            field: path.to_owned(),
            value: Some(value.clone()),
            message: format!("accepted: {}", accepted(schema)),
        });
        return;
    }
    match value {
        Value::Object(fields) => validate_fields(schema, fields, path, violations),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                validate(&schema["items"], item, &format!("{path}[{index}]"), violations);
            }
        }
        _ => {}
    }
}

fn validate_fields(schema: &Value, fields: &Map<String, Value>, path: &str, violations: &mut Vec<Violation>) {
    for name in required(schema).filter(|name| !fields.contains_key(*name)) {
        report_missing(&schema["properties"][name], &join(path, name), violations);
    }
    let known = schema["properties"].as_object();
    let others = &schema["additionalProperties"];
    let is_open = known.is_none() || schema["x-kubernetes-preserve-unknown-fields"] == true;
    for (name, value) in fields {
        let field = join(path, name);
        if let Some(schema) = known.and_then(|known| known.get(name)) {
            validate(schema, value, &field, violations);
        } else if others.is_object() {
            validate(others, value, &field, violations);
        } else if !is_open && others != true {
            let message = format!("is not a known field; {}", suggestion(known, name));
            violations.push(Violation { field, value: None, message });
        }
    }
}

/// Reports a missing field by the required fields in it, if it has any: `metadata.name` rather than
/// `metadata`.
fn report_missing(schema: &Value, path: &str, violations: &mut Vec<Violation>) {
    let mut inner = required(schema).peekable();
    if inner.peek().is_some() {
        for name in inner {
            report_missing(&schema["properties"][name], &join(path, name), violations);
        }
    } else {
        let message = format!("is required; accepted: {}", accepted(schema));
        violations.push(Violation { field: path.to_owned(), value: None, message });
    }
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_string() || is_integer(value);
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => is_integer(value),
        Some("number") => value.is_number(),
        _ => true,
    }
}

/// True for numbers without a fraction, `5.0` included.
fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn is_within_bounds(schema: &Value, value: &Value) -> bool {
    let size = match value {
        Value::String(text) => Some(("minLength", "maxLength", text.chars().count() as f64)),
        Value::Array(items) => Some(("minItems", "maxItems", items.len() as f64)),
        Value::Number(number) => number.as_f64().map(|number| ("minimum", "maximum", number)),
        _ => None,
    };
    let is_listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    is_listed
        && size.is_none_or(|(least, most, size)| {
            schema[least].as_f64().is_none_or(|least| size >= least)
                && schema[most].as_f64().is_none_or(|most| size <= most)
        })
}

/// Describes the values that a schema accepts.
fn accepted(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let names: Vec<String> = values.iter().filter(|value| !value.is_null()).map(plain).collect();
        return match names.as_slice() {
            [only] => only.clone(),
            names => format!("one of {}", names.join(", ")),
        };
    }
    // Fields that hold a duration, a path or a name describe their format in a CEL rule.
    if let Some(message) = schema["x-kubernetes-validations"][0]["message"].as_str()
        && let Some(format) = message.strip_prefix("must be ")
    {
        return format.to_owned();
    }
    let range = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(" of at least {least}"),
        (None, Some(most)) => format!(" of at most {most}"),
        (None, None) => String::new(),
    };
    match schema["type"].as_str() {
        _ if schema["x-kubernetes-int-or-string"] == true => "an integer or a string".into(),
        Some("integer") => format!("an integer{range}"),
        Some("number") => format!("a number{range}"),
        Some("boolean") => "true or false".into(),
        Some("string") => match (schema["minLength"].as_u64(), schema["maxLength"].as_u64()) {
            (least, Some(most)) => format!("a string of {} to {most} characters", least.unwrap_or(0)),
            (Some(least), None) => format!("a string of at least {least} characters"),
            (None, None) => "a string".into(),
        },
        Some("array") => match schema["maxItems"].as_u64() {
            Some(most) => format!("a list of at most {most} items"),
            None => "a list".into(),
        },
        Some("object") => match schema["properties"].as_object() {
            Some(fields) => format!("an object with the fields {}", names(fields)),
            None => "an object".into(),
        },
        _ => "another value".into(),
    }
}

/// Names the known field that `unknown` resembles, else all known fields.
fn suggestion(known: Option<&Map<String, Value>>, unknown: &str) -> String {
    let Some(known) = known.filter(|known| !known.is_empty()) else {
        return "no fields are known here".into();
    };
    let letters = unknown.replace(['_', '-'], "").to_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &letters);
    let nearest = known.keys().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match nearest.filter(|name| similarity(name) > SIMILAR) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("accepted here: {}", names(known)),
    }
}

fn names(fields: &Map<String, Value>) -> String {
    fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
