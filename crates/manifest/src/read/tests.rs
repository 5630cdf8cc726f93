//! Documents are read with the places of their errors.

use proptest::prelude::*;

use super::*;

const HEAD: &str = "apiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\n";

fn errors(text: &str) -> Vec<String> {
    read("fleet.yaml", text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn an_error_names_file_line_document_field_value_and_what_is_accepted() {
    let text = format!(
        "{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n---\n{HEAD}metadata: {{name: budget}}\nspec:\n  service: budget\n  rateLimit:\n    capacity: -5\n    refillPerSecond: 1\n"
    );
    assert_eq!(
        errors(&text),
        [
            "fleet.yaml:12: document 2 (budget): `spec.rateLimit.capacity` is -5; accepted: an integer from 1 to 1000000"
        ]
    );
}

#[test]
fn one_invalid_document_rejects_the_whole_text() {
    let text = format!(
        "{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n---\n{HEAD}metadata: {{name: meta}}\nspec: {{service: mata}}\n"
    );
    assert_eq!(read("f", &text).unwrap_err().len(), 1);
}

#[test]
fn names_and_services_are_unique() {
    let one = format!("{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n");
    let same_service = format!("{HEAD}metadata: {{name: web-2}}\nspec: {{service: web}}\n");
    let text = format!("{one}---\n{one}---\n{same_service}");
    assert_eq!(
        errors(&text),
        [
            "fleet.yaml:8: document 2 (web): `metadata.name` is \"web\"; already used by document 1 of fleet.yaml",
            "fleet.yaml:14: document 3 (web-2): `spec.service` is \"web\"; already declared by document 1 of fleet.yaml",
        ]
    );
}

#[test]
fn invalid_yaml_is_reported_with_its_line() {
    let found = errors("apiVersion: phase6.dev/v1alpha1\nkind: [\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("fleet.yaml:"), "{found:?}");
    assert!(found[0].contains("invalid YAML"), "{found:?}");
}

#[test]
fn empty_documents_are_skipped() {
    let text =
        format!("---\n---\n# only a comment\n---\n{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n");
    assert_eq!(read("f", &text).unwrap().len(), 1);
    assert_eq!(read("f", "").unwrap(), []);
}

#[test]
fn another_kind_is_rejected_with_the_expected_one() {
    let found = errors("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n");
    assert!(
        found.iter().any(|error| error.contains("`kind` is \"ConfigMap\"; accepted: Phase6Service")),
        "{found:?}"
    );
}

/// Found by `cargo xtask fuzz yaml`: a name with a line break started a separate line.
#[test]
fn an_error_is_one_line_whatever_the_file_contains() {
    let text = "a: &a 3\n?  |\n E: *a}\nmetadata: {name: \"x\\ny\\e[0m\"}\n";
    let found = errors(text);
    assert!(found.iter().all(|error| !error.contains(char::is_control)), "{found:?}");
    let name = r"fleet.yaml:4: document 1 (x\ny\u{1b}[0m): `E: *a}\n` is not a known field";
    assert!(found.iter().any(|error| error.starts_with(name)), "{found:?}");
}

proptest! {
    #[test]
    fn never_panics(text in "[-a-z:{}\\[\\]0-9 \n\"'&*!|>%@#,.]{0,200}") {
        let _ = read("f", &text);
    }
}

#[test]
fn syntax_errors_do_not_mention_the_options_of_the_parser() {
    let message = |text: &str| read("fleet.yaml", text).err().unwrap()[0].to_string();
    assert_eq!(message("a: 1\na: 2\n"), "fleet.yaml:2: invalid YAML: duplicate mapping key: a");
    assert_eq!(
        message("a: .nan\n"),
        "fleet.yaml:1: invalid YAML: non-finite float `.nan`; accepted: a finite number"
    );
    assert!(message("foo\n").starts_with(r#"fleet.yaml:1: document 1: is "foo"; accepted: an object"#));
}
