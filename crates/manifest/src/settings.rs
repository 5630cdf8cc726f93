//! The effective settings of a manifest, each with the origin of its value.

use serde_json::Value;

use crate::{
    Manifest,
    rules::{at, with_defaults},
};

/// Origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written in the file, on this line.
    File(u64),
    /// Default of the schema.
    Default,
}

/// One effective setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Path below `spec`.
    pub field: String,
    /// Effective value.
    pub value: Value,
    /// Origin of the value.
    pub origin: Origin,
}

/// Returns every effective setting of a manifest, in the order of the schema.
pub fn settings(manifest: &Manifest) -> Vec<Setting> {
    let filled = with_defaults(&manifest.value);
    let mut out = Vec::new();
    walk(manifest, "spec", &filled["spec"], &mut out);
    out
}

fn walk(manifest: &Manifest, path: &str, value: &Value, out: &mut Vec<Setting>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                walk(manifest, &format!("{path}.{name}"), value, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                walk(manifest, &format!("{path}[{index}]"), value, out);
            }
        }
        _ => {
            let written = at(&manifest.value, path).and_then(|_| manifest.line(path));
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
    fn lists_every_setting_with_its_default_and_origin() {
        let text = "
apiVersion: phase6.dev/v1alpha1
kind: Phase6Service
metadata: {name: budget}
spec:
  service: budget
  cache:
    ttl: 7s
";
        let manifests = crate::read("fleet.yaml", text).unwrap();
        let found = settings(&manifests[0]);
        let get = |field: &str| found.iter().find(|setting| setting.field == field).unwrap();
        assert_eq!((get("cache.ttl").value.as_str(), get("cache.ttl").origin), (Some("7s"), Origin::File(8)));
        assert_eq!(get("cache.maxEntries").value, 10_000);
        assert_eq!(get("cache.maxEntries").origin, Origin::Default);
        assert_eq!(get("tracing.samplingRate").value, 0.1);
        assert_eq!(get("circuitBreaker.openFor").origin, Origin::Default);
    }
}
