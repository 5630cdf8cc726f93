//! Validate stage: checks a stored resource against the rules of its definition.
//!
//! The API server has checked them already, but perhaps by an older definition. A generation that passed
//! is not checked again.

use kube::{ResourceExt, api::DynamicObject, runtime::reflector::Store};
use phase6_crds::Phase6Service;
use phase6_manifest::check;
use serde_json::json;

use crate::per_resource::PerResource;

/// Rules that a resource breaks, as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSpec(String);

/// Spec of one resource at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SpecVersion {
    uid: String,
    generation: i64,
}

/// Validator that remembers the last valid spec of each resource.
pub struct Validator {
    valid: PerResource<Option<SpecVersion>>,
}

impl Validator {
    /// Creates a validator for the given resources.
    pub fn new(resources: Store<DynamicObject>) -> Self {
        Self { valid: PerResource::new(resources) }
    }

    /// Returns the typed resource.
    ///
    /// # Errors
    ///
    /// The resource breaks a rule; the error names every broken one.
    pub fn validate(&self, object: &DynamicObject) -> Result<Phase6Service, InvalidSpec> {
        let value = serde_json::to_value(object).map_err(|error| InvalidSpec(error.to_string()))?;
        let version = SpecVersion {
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
        };
        if self.valid.with(object, |valid| valid.as_ref() != Some(&version)) {
            let problems = check(&json!({
                "apiVersion": value["apiVersion"],
                "kind": value["kind"],
                "metadata": { "name": object.name_any() },
                "spec": value["spec"],
            }));
            if !problems.is_empty() {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                return Err(InvalidSpec(problems.join("; ")));
            }
        }
        let resource = serde_json::from_value(value)
            .map_err(|error| InvalidSpec(format!("failed to parse the resource: {error}")))?;
        self.valid.with(object, |valid| *valid = Some(version));
        Ok(resource)
    }
}
