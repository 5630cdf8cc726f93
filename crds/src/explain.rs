//! The effective settings of a resource, and where each value came from.

use serde_json::Value;

use crate::{
    Document,
    rules::{at, with_defaults},
};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written in the file, on this line.
    File(u64),
    /// The schema's default.
    Default,
}

/// One effective setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Path below `spec`.
    pub field: String,
    /// What is in force.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// Every effective setting of a document that has no faults, in the order of the schema.
pub fn settings(document: &Document) -> Vec<Setting> {
    let filled = with_defaults(&document.value);
    let mut out = Vec::new();
    walk(document, "spec", &filled["spec"], &mut out);
    out
}

fn walk(document: &Document, path: &str, value: &Value, out: &mut Vec<Setting>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                walk(document, &format!("{path}.{name}"), value, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                walk(document, &format!("{path}[{index}]"), value, out);
            }
        }
        _ => {
            let written = at(&document.value, path).and_then(|_| document.line(path));
            out.push(Setting {
                field: path.trim_start_matches("spec.").to_owned(),
                value: value.clone(),
                origin: written.map_or(Origin::Default, Origin::File),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_filled_and_every_origin_told() {
        let text = "
apiVersion: phase6.dev/v1alpha1
kind: Phase6Service
metadata: {name: budget}
spec:
  service: budget
  cache:
    ttl: 7s
";
        let documents = crate::read("fleet.yaml", text).unwrap();
        let found = settings(&documents[0]);
        let get = |field: &str| found.iter().find(|setting| setting.field == field).unwrap();
        assert_eq!((get("cache.ttl").value.as_str(), get("cache.ttl").origin), (Some("7s"), Origin::File(8)));
        assert_eq!(get("cache.maxEntries").value, 10_000);
        assert_eq!(get("cache.maxEntries").origin, Origin::Default);
        assert_eq!(get("tracing.samplingRate").value, 0.1);
        assert_eq!(get("circuitBreaker.openFor").origin, Origin::Default);
    }
}
