//! Comparison of a desired object with the stored one. Pure.
//!
//! The API server adds to an object: defaults, fields of other managers, status. An object is therefore
//! up to date if it holds every desired field, and if it was last applied from the same desired object;
//! only the latter shows that a field is no longer desired. A fingerprint of the desired object is stored
//! in an annotation, so that it survives restarts of the operator.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::build::Object;

/// Annotation that holds the fingerprint of the desired object that was last applied.
pub const FINGERPRINT: &str = "phase6.dev/applied";

/// Difference between a desired object and the stored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The stored object is up to date.
    None,
    /// No object is stored.
    Missing,
    /// The stored object was applied from another desired object.
    Outdated,
    /// Another client modified a field that the operator applied.
    Modified {
        /// Path of the first modified field, such as `spec.ports[0].port`.
        path: String,
    },
}

/// Compares the desired object with the stored one.
pub fn detect(desired: &Object, live: Option<&Value>) -> Drift {
    let Some(live) = live else { return Drift::Missing };
    if live["metadata"]["annotations"][FINGERPRINT].as_str() != Some(&fingerprint(&desired.body)) {
        return Drift::Outdated;
    }
    first_difference(&desired.body, live, "").map_or(Drift::None, |path| Drift::Modified { path })
}

/// Returns the body to apply: the desired object with its fingerprint.
pub fn with_fingerprint(desired: &Object) -> Value {
    let mut body = desired.body.clone();
    let fingerprint = fingerprint(&body);
    if !body["metadata"]["annotations"].is_object() {
        body["metadata"]["annotations"] = json!({});
    }
    body["metadata"]["annotations"][FINGERPRINT] = fingerprint.into();
    body
}

fn fingerprint(body: &Value) -> String {
    let digest = Sha256::digest(body.to_string().as_bytes());
    let start = digest[..8].try_into().expect("a SHA-256 digest has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(start))
}

/// Returns the path of the first desired value that `live` does not hold.
fn first_difference(desired: &Value, live: &Value, path: &str) -> Option<String> {
    match (desired, live) {
        (Value::Null, _) => None,
        (Value::Object(desired), Value::Object(live)) => desired.iter().find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match live.get(name) {
                Some(live) => first_difference(value, live, &path),
                // The API server drops empty lists and maps.
                None => (!is_empty(value)).then_some(path),
            }
        }),
        (Value::Array(desired), Value::Array(live)) if desired.len() == live.len() => desired
            .iter()
            .zip(live)
            .enumerate()
            .find_map(|(i, (desired, live))| first_difference(desired, live, &format!("{path}[{i}]"))),
        _ => (desired != live && !equal_quantities(desired, live)).then(|| path.to_owned()),
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

/// Returns true if both values are equal quantities: `0.5` is stored as `500m`.
fn equal_quantities(a: &Value, b: &Value) -> bool {
    let parsed = |value: &Value| match value {
        Value::String(text) => parse_quantity(text),
        Value::Number(number) => number.as_f64(),
        _ => None,
    };
    matches!((parsed(a), parsed(b)), (Some(a), Some(b)) if (a - b).abs() <= 1e-9 * a.abs())
}

/// Parses a Kubernetes quantity such as `500m` or `1Gi`.
fn parse_quantity(text: &str) -> Option<f64> {
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
        // `f64::from_str` also accepts "inf" and "nan".
        let is_decimal = number.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        Some(number.parse::<f64>().ok().filter(|_| is_decimal)? * factor)
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
    fn fields_that_the_api_server_adds_or_drops_are_no_drift() {
        let desired = object(json!({
            "metadata": {"name": "budget"},
            "spec": {"ports": [{"port": 3003}], "selector": {"a": "b"}, "list": [], "nothing": null},
        }));
        let mut live = with_fingerprint(&desired);
        live["metadata"]["uid"] = "1".into();
        live["spec"]["ports"][0]["protocol"] = "TCP".into();
        live["spec"].as_object_mut().expect("a map").remove("list");
        live["status"] = json!({"loadBalancer": {}});
        assert_eq!(detect(&desired, Some(&live)), Drift::None);
        assert_eq!(detect(&desired, None), Drift::Missing);
    }

    #[test]
    fn a_change_by_another_client_differs_from_a_change_of_the_desired_object() {
        let desired = object(json!({"metadata": {"name": "budget"}, "spec": {"ports": [{"port": 3003}]}}));
        let mut live = with_fingerprint(&desired);
        live["spec"]["ports"][0]["port"] = 80.into();
        let path = "spec.ports[0].port".to_owned();
        assert_eq!(detect(&desired, Some(&live)), Drift::Modified { path });
        let other = object(json!({"metadata": {"name": "budget"}, "spec": {"ports": [{"port": 80}]}}));
        assert_eq!(detect(&other, Some(&live)), Drift::Outdated);
    }

    #[test]
    fn a_field_that_is_no_longer_desired_makes_an_object_outdated() {
        let before = object(json!({"metadata": {}, "spec": {"a": 1, "b": 2}}));
        let after = object(json!({"metadata": {}, "spec": {"a": 1}}));
        assert_eq!(detect(&after, Some(&with_fingerprint(&before))), Drift::Outdated);
    }

    #[test]
    fn quantities_are_compared_by_value() {
        let equal =
            |a: &str, b: &str| first_difference(&json!({ "cpu": a }), &json!({ "cpu": b }), "").is_none();
        assert!(equal("0.5", "500m"));
        assert!(equal("1024Mi", "1Gi"));
        assert!(equal("1000m", "1"));
        assert!(!equal("0.5", "501m"));
        assert!(!equal("1Gi", "1G"));
        assert!(!equal("a", "b"));
        assert!(!equal("inf", "infinity"));
    }

    #[test]
    fn a_longer_list_is_a_difference() {
        let desired = json!({"ports": [1]});
        assert_eq!(first_difference(&desired, &json!({"ports": [1, 2]}), ""), Some("ports".into()));
        assert_eq!(first_difference(&desired, &json!({"ports": null}), ""), Some("ports".into()));
    }
}
