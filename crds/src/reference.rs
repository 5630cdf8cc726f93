//! Reference page of the resource: its fields, from the schema that the API server validates.

use std::fmt::Write as _;

use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::Phase6Service;

/// Returns the page as Markdown.
pub fn reference_markdown() -> String {
    let definition = json!(Phase6Service::crd());
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut page = String::from(
        "# Phase6Service\n\n<!-- Generated from the types in crds/src by `cargo xtask crd`. -->\n\n\
         `phase6.dev/v1alpha1`, namespaced, short name `p6`. `kubectl explain p6.spec` shows the same. \
         [crds/examples](../../crds/examples/fleet.yaml) has examples. \
         [operating.md](../operating.md) explains conditions and events.\n",
    );
    for part in ["spec", "status"] {
        section(&mut page, part, &schema[part]);
    }
    page
}

/// Writes the fields of an object, then a section for each object among them.
fn section(page: &mut String, path: &str, schema: &Value) {
    let _ = write!(page, "\n## {path}\n\n");
    if let Some(about) = schema["description"].as_str() {
        let _ = write!(page, "{}\n\n", line(about));
    }
    page.push_str("| Field | Type | Default | Meaning |\n|---|---|---|---|\n");
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields: Vec<(&String, &Value)> = schema["properties"].as_object().into_iter().flatten().collect();
    for (name, field) in &fields {
        let default = match (&field["default"], required.contains(&name.as_str())) {
            (Value::Null, true) => "required".to_owned(),
            (Value::Null, false) => String::new(),
            (Value::Object(_), _) => "as below".to_owned(),
            (default, _) => format!("`{default}`").replace('"', ""),
        };
        let meaning = line(field["description"].as_str().unwrap_or_default());
        let _ = writeln!(page, "| `{name}` | {} | {default} | {meaning} |", kind(field));
    }
    let rules: Vec<String> = rules(schema).collect();
    if !rules.is_empty() {
        page.push('\n');
        for rule in rules {
            let _ = writeln!(page, "* {rule}");
        }
    }
    // The documentation of Kubernetes describes its own types.
    for (name, field) in
        fields.iter().filter(|(name, _)| !["resources", "conditions"].contains(&name.as_str()))
    {
        let inner = if field["type"] == "array" { &field["items"] } else { field };
        if inner["properties"].is_object() {
            let suffix = if field["type"] == "array" { "[]" } else { "" };
            section(page, &format!("{path}.{name}{suffix}"), inner);
        }
    }
}

/// Messages of the rules that relate fields to one another.
fn rules(schema: &Value) -> impl Iterator<Item = String> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules.filter_map(|rule| Some(line(rule["message"].as_str()?)))
}

fn kind(field: &Value) -> String {
    let name = field["type"].as_str().unwrap_or("any");
    if let Some(choices) = field["enum"].as_array() {
        let choices = choices.iter().filter_map(Value::as_str);
        return choices.map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    }
    let number = |bound: &str| field[bound].as_f64();
    match (number("minimum"), number("maximum")) {
        (Some(least), Some(most)) => format!("{name}, {least} to {most}"),
        _ => name.to_owned(),
    }
}

/// Returns `text` as one cell of a table.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_meaning_and_sections_have_their_own() {
        let page = reference_markdown();
        assert!(
            page.contains("| `capacity` | integer, 1 to 1000000 | required | Tokens in a full bucket"),
            "{page}"
        );
        assert!(page.contains("## spec.rateLimit.overrides[].match"), "{page}");
        assert!(
            page.contains("* replicas and autoscaling exclude each other; set at most one of them"),
            "{page}"
        );
        let empty: Vec<&str> = page.lines().filter(|line| line.ends_with("|  |")).collect();
        assert!(empty.is_empty(), "fields without a meaning: {empty:?}");
    }
}
