//! The rules that a resource must keep, as the API server applies them: the structure of the schema, then
//! the CEL rules between fields.
//!
//! Reports every violation, and for each one what is accepted. Where the structure of a field is wrong,
//! CEL rules about the same field are left out: they would only repeat the first message.

use std::fmt::{self, Write};

use kube_cel::{ErrorKind, Validator, apply_defaults};
use phase6_catalog::SERVICES;
use serde_json::{Value, json};

use crate::{definition::definition, one_line::OneLine, structure};

/// One broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Path of the field, as in `spec.rateLimit.overrides[0].capacity`.
    pub field: String,
    /// Value of the field; `None` if it is missing or unknown.
    pub value: Option<Value>,
    /// Cause, and what is accepted: the end of a sentence that begins with the field's path.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_violation(&mut OneLine(f), &self.field, self.value.as_ref(), &self.message)
    }
}

/// Writes `field`, its value and the message as one sentence.
pub(crate) fn write_violation(
    out: &mut impl Write,
    field: &str,
    value: Option<&Value>,
    message: &str,
) -> fmt::Result {
    match value {
        Some(value) => write!(out, "`{field}` is {value}; {message}"),
        None => write!(out, "`{field}` {message}"),
    }
}

/// Checks a new resource. Returns no violation for a valid one.
pub fn check(resource: &Value) -> Vec<Violation> {
    check_against(resource, None)
}

/// Checks a resource that replaces `old`.
pub fn check_update(resource: &Value, old: &Value) -> Vec<Violation> {
    check_against(resource, Some(old))
}

/// Checks the policy of a compiled document by the rules of the resource that it came from. Paths begin
/// with `policy`.
pub fn check_policy(policy: &Value) -> Vec<Violation> {
    let mut spec = policy.clone();
    if let Value::Object(fields) = &mut spec {
        // Required in a resource; no rule relates it to the policy.
        fields.insert("service".into(), json!(SERVICES[0].name));
    }
    let resource = json!({
        "apiVersion": "phase6.dev/v1alpha1",
        "kind": "Phase6Service",
        "metadata": {"name": "policy"},
        "spec": spec,
    });
    let mut violations = check(&resource);
    for violation in &mut violations {
        if let Some(rest) = violation.field.strip_prefix("spec") {
            violation.field = format!("policy{rest}");
        }
    }
    violations
}

fn check_against(resource: &Value, old: Option<&Value>) -> Vec<Violation> {
    let definition = definition();
    let mut violations = Vec::new();
    structure::validate(&definition.schema, resource, "", &mut violations);
    let malformed: Vec<String> = violations.iter().map(|violation| violation.field.clone()).collect();

    let filled = with_defaults(resource);
    if let Err(broken) = Validator::new().validate_compiled(&definition.rules, &filled, old) {
        for error in &broken {
            let field = error.field_path.trim_start_matches('.').to_owned();
            // A rule that cannot be evaluated met a value of the wrong type, which is reported already.
            let is_repeated = malformed.contains(&field)
                || (error.kind != ErrorKind::ValidationFailure && !malformed.is_empty());
            if !is_repeated {
                let value = at(resource, &field).filter(|value| !value.is_object()).cloned();
                let message = match (error.message.strip_prefix("must be "), &value) {
                    (Some(format), _) => format!("accepted: {format}"),
                    (None, Some(_)) => error.message.clone(),
                    (None, None) => format!("is invalid: {}", error.message),
                };
                violations.push(Violation { field, value, message });
            }
        }
    }
    violations.sort_by(|a, b| a.field.cmp(&b.field));
    violations.dedup();
    violations
}

/// Returns the resource with every default that the API server fills in.
pub(crate) fn with_defaults(resource: &Value) -> Value {
    apply_defaults(&definition().schema, resource)
}

/// Returns the value at a dotted path such as `spec.overrides[0].path`.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split(['.', '[']).filter(|token| !token.is_empty()).try_fold(value, |value, token| {
        match token.strip_suffix(']').and_then(|index| index.parse::<usize>().ok()) {
            Some(index) => value.get(index),
            None => value.get(token),
        }
    })
}

#[cfg(test)]
mod tests;
