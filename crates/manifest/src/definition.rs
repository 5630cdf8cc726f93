//! The schema of the resource, from the generated definition that is committed in `crds/`.

use std::sync::OnceLock;

use kube_cel::{CompiledSchema, compile_schema};
use serde_json::{Value, json};

/// The definition as `cargo xtask crd` wrote it; a test compares it with the types in `crds/src`.
const DEFINITION: &str = include_str!("../../../crds/phase6services.yaml");

/// The schema and its compiled rules.
pub(crate) struct Definition {
    /// OpenAPI v3 schema of a whole object, `apiVersion`, `kind` and `metadata.name` included.
    pub(crate) schema: Value,
    /// CEL rules of the schema.
    pub(crate) rules: CompiledSchema,
}

/// Returns the definition, parsed once.
pub(crate) fn definition() -> &'static Definition {
    static PARSED: OnceLock<Definition> = OnceLock::new();
    PARSED.get_or_init(|| {
        let definition: Value =
            serde_saphyr::from_str(DEFINITION).expect("the committed definition is valid YAML");
        let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let root = schema["properties"].as_object_mut().expect("the schema has properties");
        root.insert("apiVersion".into(), json!({"type": "string", "enum": ["phase6.dev/v1alpha1"]}));
        root.insert("kind".into(), json!({"type": "string", "enum": ["Phase6Service"]}));
        root.insert("metadata".into(), metadata_schema());
        root.entry("status").or_insert(json!({"type": "object"}));
        schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
        Definition { rules: compile_schema(&schema), schema }
    })
}

/// Schema of the metadata that a manifest may state. The API server checks metadata by rules that are
/// not in a definition; these are the ones that a typing error can break.
fn metadata_schema() -> Value {
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "message": "must be lower-case letters, digits and dashes, starting with a letter",
            }],
        }},
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cel_rule_compiles() {
        assert!(!definition().rules.has_errors(), "{:?}", definition().rules.compilation_errors());
    }
}
