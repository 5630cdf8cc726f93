//! Reads `Phase6Service` documents from YAML.
//!
//! Either every document of the text is sound or nothing is taken from it: a half-written file
//! changes nothing. Each fault names file, line, document, field, value and what would be
//! accepted, and all faults of a text are reported together.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use crate::{
    Phase6Service,
    rules::{self, OneLine},
};

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file it stands in.
    pub file: String,
    /// Its place in the file, from 1.
    pub index: usize,
    /// As it was written, without defaults.
    pub value: Value,
    /// With every default filled in.
    pub resource: Phase6Service,
    lines: BTreeMap<String, u64>,
}

impl Document {
    /// The line on which a field stands.
    pub fn line(&self, field: &str) -> Option<u64> {
        self.lines.get(field).copied()
    }

    /// The resource's name.
    pub fn name(&self) -> &str {
        self.resource.metadata.name.as_deref().unwrap_or_default()
    }

    /// A fault of one of its fields that no single document can show, such as a name used twice.
    pub fn fault(&self, field: &str, complaint: String) -> Fault {
        Fault {
            file: self.file.clone(),
            line: self.line(field),
            document: Some((self.index, self.name().to_owned())),
            field: Some((field.to_owned(), rules::at(&self.value, field).cloned())),
            complaint,
        }
    }
}

/// What is wrong with a text, in one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line, where it is known.
    pub line: Option<u64>,
    /// Place of the document in the file, from 1, and its name where it has one.
    pub document: Option<(usize, String)>,
    /// The field and the value that stands there.
    pub field: Option<(String, Option<Value>)>,
    /// What is wrong and what would be accepted.
    pub complaint: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if let Some((index, name)) = &self.document {
            match name.as_str() {
                "" => write!(f, "document {index}: ")?,
                name => write!(f, "document {index} ({name}): ")?,
            }
        }
        match &self.field {
            Some((field, Some(value))) => write!(f, "{field} is {value}; {}", self.complaint),
            Some((field, None)) => write!(f, "{field} {}", self.complaint),
            None => f.write_str(&self.complaint),
        }
    }
}

impl std::error::Error for Fault {}

/// Reads every document of `text`; `file` is only used in messages.
///
/// # Errors
///
/// All faults of the text. Two documents of one name, or for one service, are a fault too.
pub fn read(file: &str, text: &str) -> Result<Vec<Document>, Vec<Fault>> {
    let roots = match serde_saphyr::from_multiple::<Spanned<Node>>(text) {
        Ok(roots) => roots,
        Err(error) => return Err(vec![syntax_fault(file, &error)]),
    };
    let mut documents = Vec::new();
    let mut faults = Vec::new();
    for (position, root) in roots.iter().enumerate() {
        let mut lines = BTreeMap::new();
        let value = root.value.to_value("", root.referenced.line(), &mut lines);
        if value.is_null() {
            continue;
        }
        let index = position + 1;
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let problems = rules::check(&value);
        if problems.is_empty() {
            match serde_json::from_value(value.clone()) {
                Ok(resource) => {
                    documents.push(Document { file: file.to_owned(), index, value, resource, lines });
                }
                Err(error) => faults.push(Fault {
                    file: file.to_owned(),
                    line: Some(root.referenced.line()),
                    document: Some((index, name)),
                    field: None,
                    complaint: error.to_string(),
                }),
            }
            continue;
        }
        faults.extend(problems.into_iter().map(|problem| Fault {
            file: file.to_owned(),
            line: nearest_line(&lines, &problem.field),
            document: Some((index, name.clone())),
            field: (!problem.field.is_empty()).then_some((problem.field, problem.value)),
            complaint: problem.complaint,
        }));
    }
    faults.extend(doubles(&documents));
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}

/// Faults between documents: each name and each service at most once.
pub fn doubles(documents: &[Document]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (i, later) in documents.iter().enumerate() {
        let earlier = &documents[..i];
        let place = |other: &Document| format!("document {} of {}", other.index, other.file);
        if let Some(first) = earlier.iter().find(|other| other.name() == later.name()) {
            faults.push(later.fault("metadata.name", format!("already used by {}", place(first))));
        } else if let Some(first) =
            earlier.iter().find(|other| other.resource.spec.service == later.resource.spec.service)
        {
            faults.push(later.fault("spec.service", format!("already declared by {}", place(first))));
        }
    }
    faults
}

/// The line of a field or, where it is missing, of what it should stand in.
fn nearest_line(lines: &BTreeMap<String, u64>, field: &str) -> Option<u64> {
    let mut path = field;
    loop {
        if let Some(line) = lines.get(path) {
            return Some(*line);
        }
        match path.rfind(['.', '[']) {
            Some(end) => path = &path[..end],
            None => return lines.get("").copied(),
        }
    }
}

fn syntax_fault(file: &str, error: &serde_saphyr::Error) -> Fault {
    let text = error.without_snippet().to_string();
    Fault {
        file: file.to_owned(),
        line: error.location().map(|location| location.line()),
        document: None,
        field: None,
        complaint: format!("not valid YAML: {text}"),
    }
}

/// A YAML node whose children know their lines.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Mapping(Vec<(String, Spanned<Node>)>),
}

impl Node {
    /// The plain value; `lines` learns the line of every field by its dotted path.
    fn to_value(&self, path: &str, line: u64, lines: &mut BTreeMap<String, u64>) -> Value {
        lines.insert(path.to_owned(), line);
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| item.value.to_value(&format!("{path}[{i}]"), item.referenced.line(), lines))
                .collect(),
            Self::Mapping(fields) => {
                let mut map = Map::new();
                for (name, field) in fields {
                    let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    let value = field.value.to_value(&below, field.referenced.line(), lines);
                    map.insert(name.clone(), value);
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // JSON has no infinities; as text they meet the field's own rule.
        Ok(Node::Scalar(Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Mapping(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "apiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\n";

    fn faults(text: &str) -> Vec<String> {
        read("fleet.yaml", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fault_names_file_line_document_field_value_and_what_is_accepted() {
        let text = format!(
            "{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n---\n{HEAD}metadata: {{name: budget}}\nspec:\n  service: budget\n  rateLimit:\n    capacity: -5\n    refillPerSecond: 1\n"
        );
        assert_eq!(
            faults(&text),
            [
                "fleet.yaml:12: document 2 (budget): spec.rateLimit.capacity is -5; accepted: a whole number from 1 to 1000000"
            ]
        );
    }

    #[test]
    fn one_bad_document_refuses_the_whole_text() {
        let text = format!(
            "{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n---\n{HEAD}metadata: {{name: meta}}\nspec: {{service: mata}}\n"
        );
        assert_eq!(read("f", &text).unwrap_err().len(), 1);
    }

    #[test]
    fn names_and_services_stand_once() {
        let one = format!("{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n");
        let same_service = format!("{HEAD}metadata: {{name: web-2}}\nspec: {{service: web}}\n");
        let text = format!("{one}---\n{one}---\n{same_service}");
        assert_eq!(
            faults(&text),
            [
                "fleet.yaml:8: document 2 (web): metadata.name is \"web\"; already used by document 1 of fleet.yaml",
                "fleet.yaml:14: document 3 (web-2): spec.service is \"web\"; already declared by document 1 of fleet.yaml",
            ]
        );
    }

    #[test]
    fn broken_yaml_is_told_with_its_line() {
        let found = faults("apiVersion: phase6.dev/v1alpha1\nkind: [\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("fleet.yaml:"), "{found:?}");
        assert!(found[0].contains("not valid YAML"), "{found:?}");
    }

    #[test]
    fn empty_documents_are_passed_over() {
        let text = format!(
            "---\n---\n# only a comment\n---\n{HEAD}metadata: {{name: web}}\nspec: {{service: web}}\n"
        );
        assert_eq!(read("f", &text).unwrap().len(), 1);
        assert_eq!(read("f", "").unwrap(), []);
    }

    #[test]
    fn another_kind_is_told_what_is_expected() {
        let found = faults("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n");
        assert!(
            found.iter().any(|fault| fault.contains("kind is \"ConfigMap\"; accepted: Phase6Service")),
            "{found:?}"
        );
    }

    /// Found by `cargo xtask fuzz yaml`: a name with a line break in it made a line of its own.
    #[test]
    fn a_fault_is_one_line_whatever_stands_in_the_file() {
        let text = "a: &a 3\n?  |\n E: *a}\nmetadata: {name: \"x\\ny\\e[0m\"}\n";
        let found = faults(text);
        assert!(found.iter().all(|fault| !fault.contains(char::is_control)), "{found:?}");
        let name = r"fleet.yaml:4: document 1 (x\ny\u{1b}[0m): E: *a}\n is not a known field";
        assert!(found.iter().any(|fault| fault.starts_with(name)), "{found:?}");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-a-z:{}\\[\\]0-9 \n\"'&*!|>%@#,.]{0,200}") {
            let _ = read("f", &text);
        }
    }
}
