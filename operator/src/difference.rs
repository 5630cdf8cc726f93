//! Whether an object is as it should be. Pure.
//!
//! The API server adds to what it is given: defaults, other managers' fields, status. So an object is
//! as it should be if everything that is wanted stands in it, and if it was last applied from the same
//! wish: a field that is no longer wanted shows only in that. The wish's fingerprint is kept in an
//! annotation, where it outlives the operator.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::build::Object;

/// Annotation with the fingerprint of what was applied.
pub const APPLIED: &str = "phase6.dev/applied";

/// What is to be done about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be.
    Nothing,
    /// It is not there.
    Create,
    /// Something else is wanted than before.
    Change,
    /// Somebody changed what we applied, first at this path.
    Repair(String),
}

/// Compares what is wanted with what is there.
pub fn step(wanted: &Object, live: Option<&Value>) -> Step {
    let Some(live) = live else { return Step::Create };
    if live["metadata"]["annotations"][APPLIED].as_str() != Some(&fingerprint(&wanted.body)) {
        return Step::Change;
    }
    missing(&wanted.body, live, "").map_or(Step::Nothing, Step::Repair)
}

/// What is sent to the API server.
pub fn sealed(wanted: &Object) -> Value {
    let mut body = wanted.body.clone();
    let fingerprint = fingerprint(&body);
    if !body["metadata"]["annotations"].is_object() {
        body["metadata"]["annotations"] = json!({});
    }
    body["metadata"]["annotations"][APPLIED] = fingerprint.into();
    body
}

fn fingerprint(body: &Value) -> String {
    let digest = Sha256::digest(body.to_string().as_bytes());
    let start = digest[..8].try_into().expect("a digest has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(start))
}

/// The path of the first wanted value that `live` does not have.
pub fn missing(wanted: &Value, live: &Value, path: &str) -> Option<String> {
    match (wanted, live) {
        (Value::Null, _) => None,
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match live.get(name) {
                Some(live) => missing(value, live, &path),
                // An empty list or map is stored as none.
                None => (!is_empty(value)).then_some(path),
            }
        }),
        (Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => wanted
            .iter()
            .zip(live)
            .enumerate()
            .find_map(|(i, (wanted, live))| missing(wanted, live, &format!("{path}[{i}]"))),
        _ => (wanted != live && !same_quantity(wanted, live)).then(|| path.to_owned()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

/// Quantities are stored in their shortest form: `0.5` and `500m` are the same.
fn same_quantity(a: &Value, b: &Value) -> bool {
    let parsed = |value: &Value| match value {
        Value::String(text) => quantity(text),
        Value::Number(number) => number.as_f64(),
        _ => None,
    };
    matches!((parsed(a), parsed(b)), (Some(a), Some(b)) if (a - b).abs() <= 1e-9 * a.abs())
}

/// The number that a Kubernetes quantity stands for.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 16] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    SUFFIXES.iter().find_map(|(suffix, factor)| {
        let number = text.strip_suffix(suffix)?;
        // Not the names of numbers that Rust knows.
        let plain = number.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        Some(number.parse::<f64>().ok().filter(|_| plain)? * factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Kind;

    fn object(body: Value) -> Object {
        Object { kind: Kind::Service, name: "budget".into(), body }
    }

    #[test]
    fn what_was_applied_needs_nothing_whatever_the_server_adds() {
        let wanted = object(json!({
            "metadata": {"name": "budget"},
            "spec": {"ports": [{"port": 3003}], "selector": {"a": "b"}, "list": [], "nothing": null},
        }));
        let mut live = sealed(&wanted);
        live["metadata"]["uid"] = "1".into();
        live["spec"]["ports"][0]["protocol"] = "TCP".into();
        live["spec"].as_object_mut().expect("a map").remove("list");
        live["status"] = json!({"loadBalancer": {}});
        assert_eq!(step(&wanted, Some(&live)), Step::Nothing);
        assert_eq!(step(&wanted, None), Step::Create);
    }

    #[test]
    fn a_change_by_somebody_else_is_told_from_a_change_of_the_wish() {
        let wanted = object(json!({"metadata": {"name": "budget"}, "spec": {"ports": [{"port": 3003}]}}));
        let mut live = sealed(&wanted);
        live["spec"]["ports"][0]["port"] = 80.into();
        assert_eq!(step(&wanted, Some(&live)), Step::Repair("spec.ports[0].port".into()));
        let other = object(json!({"metadata": {"name": "budget"}, "spec": {"ports": [{"port": 80}]}}));
        assert_eq!(step(&other, Some(&live)), Step::Change);
    }

    #[test]
    fn a_field_that_is_no_longer_wanted_is_a_change() {
        let before = object(json!({"metadata": {}, "spec": {"a": 1, "b": 2}}));
        let after = object(json!({"metadata": {}, "spec": {"a": 1}}));
        assert_eq!(step(&after, Some(&sealed(&before))), Step::Change);
    }

    #[test]
    fn quantities_are_compared_by_what_they_stand_for() {
        let same = |a: &str, b: &str| missing(&json!({ "cpu": a }), &json!({ "cpu": b }), "").is_none();
        assert!(same("0.5", "500m"));
        assert!(same("1024Mi", "1Gi"));
        assert!(same("1000m", "1"));
        assert!(!same("0.5", "501m"));
        assert!(!same("1Gi", "1G"));
        assert!(!same("a", "b"));
        assert!(!same("inf", "infinity"));
    }

    #[test]
    fn a_longer_list_is_not_what_was_wanted() {
        let wanted = json!({"ports": [1]});
        assert_eq!(missing(&wanted, &json!({"ports": [1, 2]}), ""), Some("ports".into()));
        assert_eq!(missing(&wanted, &json!({"ports": null}), ""), Some("ports".into()));
    }
}
