//! Reads `Phase6Service` manifests from YAML.
//!
//! All documents of a text are valid or none is taken from it: a half-written file changes nothing. Each
//! error names file, line, document, field, value and what is accepted, and all errors of a text are
//! reported together.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use phase6_catalog::ServiceName;
use phase6_policy::Policy;
use serde_json::Value;
use serde_saphyr::Spanned;

use self::node::Node;
use crate::{
    one_line::OneLine,
    rules::{self, at, write_violation},
};

mod node;

/// One valid document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Path of the file, for messages.
    pub file: String,
    /// Position of the document in the file, from 1.
    pub index: usize,
    /// The document as it is written, without defaults.
    pub value: Value,
    /// `metadata.name`.
    pub name: String,
    /// `spec.service`.
    pub service: ServiceName,
    /// The part of the spec that replicas enforce, with every default.
    pub policy: Policy,
    lines: BTreeMap<String, u64>,
}

impl Manifest {
    fn new(
        file: &str,
        index: usize,
        value: Value,
        lines: BTreeMap<String, u64>,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            file: file.to_owned(),
            index,
            name: serde_json::from_value(value["metadata"]["name"].clone())?,
            service: serde_json::from_value(value["spec"]["service"].clone())?,
            policy: serde_json::from_value(value["spec"].clone())?,
            value,
            lines,
        })
    }

    /// Line of a field, from 1.
    pub fn line(&self, field: &str) -> Option<u64> {
        self.lines.get(field).copied()
    }

    /// Returns the fields of the spec that are not part of the policy, such as `replicas` and `image`. They
    /// act in a cluster only.
    pub fn cluster_settings(&self) -> BTreeMap<&str, &Value> {
        let policy = schemars::schema_for!(Policy);
        let spec = self.value["spec"].as_object().into_iter().flatten();
        spec.filter(|(name, _)| policy.pointer(&format!("/properties/{name}")).is_none())
            .map(|(name, value)| (name.as_str(), value))
            .collect()
    }

    /// Returns an error about a field of the manifest that involves other documents, such as a name that is
    /// used twice.
    pub fn error(&self, field: &str, message: String) -> ManifestError {
        ManifestError {
            file: self.file.clone(),
            line: self.line(field),
            document: Some((self.index, self.name.clone())),
            field: Some((field.to_owned(), at(&self.value, field).cloned())),
            message,
        }
    }
}

/// One error in a file of manifests; displayed as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestError {
    /// Path of the file.
    pub file: String,
    /// Line, from 1, where it is known.
    pub line: Option<u64>,
    /// Position of the document in the file, from 1, and its name, which may be empty.
    pub document: Option<(usize, String)>,
    /// Field and its value.
    pub field: Option<(String, Option<Value>)>,
    /// Cause, and what is accepted.
    pub message: String,
}

impl fmt::Display for ManifestError {
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
            Some((field, value)) => write_violation(&mut f, field, value.as_ref(), &self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ManifestError {}

/// Reads every document of `text`; `file` is used in messages only.
///
/// # Errors
///
/// Every error of the text. A name or a service that two documents share is one too.
pub fn read(file: &str, text: &str) -> Result<Vec<Manifest>, Vec<ManifestError>> {
    let roots = match serde_saphyr::from_multiple::<Spanned<Node>>(text) {
        Ok(roots) => roots,
        Err(error) => return Err(vec![syntax_error(file, &error)]),
    };
    let mut manifests = Vec::new();
    let mut errors = Vec::new();
    for (position, root) in roots.iter().enumerate() {
        let mut lines = BTreeMap::new();
        let value = root.value.to_value("", root.referenced.line(), &mut lines);
        if value.is_null() {
            continue;
        }
        let index = position + 1;
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let error = |line, field, message| ManifestError {
            file: file.to_owned(),
            line,
            document: Some((index, name.clone())),
            field,
            message,
        };
        let violations = rules::check(&value);
        if violations.is_empty() {
            match Manifest::new(file, index, value, lines) {
                Ok(manifest) => manifests.push(manifest),
                Err(cause) => errors.push(error(Some(root.referenced.line()), None, cause.to_string())),
            }
            continue;
        }
        errors.extend(violations.into_iter().map(|violation| {
            let line = nearest_line(&lines, &violation.field);
            if violation.field.is_empty() {
                let value = violation.value.map_or_else(String::new, |value| format!("is {value}; "));
                return error(line, None, value + &violation.message);
            }
            error(line, Some((violation.field, violation.value)), violation.message)
        }));
    }
    errors.extend(duplicates(&manifests));
    if errors.is_empty() { Ok(manifests) } else { Err(errors) }
}

/// Errors about names and services that more than one manifest has.
pub fn duplicates(manifests: &[Manifest]) -> Vec<ManifestError> {
    let mut errors = Vec::new();
    for (position, later) in manifests.iter().enumerate() {
        let earlier = &manifests[..position];
        let place = |other: &Manifest| format!("document {} of {}", other.index, other.file);
        if let Some(first) = earlier.iter().find(|other| other.name == later.name) {
            errors.push(later.error("metadata.name", format!("already used by {}", place(first))));
        } else if let Some(first) = earlier.iter().find(|other| other.service == later.service) {
            errors.push(later.error("spec.service", format!("already declared by {}", place(first))));
        }
    }
    errors
}

/// Line of a field or, where the field is missing, of the object that should have it.
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

/// Returns the cause of a syntax error without the parts that address users of the parser: its options, and the
/// position, which is known already.
fn cause(text: &str) -> String {
    let text = text.split(" at line ").next().unwrap_or_default();
    let text = text.split(", set ").next().unwrap_or_default();
    text.replace(" rejected by the configured policy", "; accepted: a finite number")
}

fn syntax_error(file: &str, error: &serde_saphyr::Error) -> ManifestError {
    let cause = cause(&error.without_snippet().to_string());
    ManifestError {
        file: file.to_owned(),
        line: error.location().map(|location| location.line()),
        document: None,
        field: None,
        message: format!("invalid YAML: {cause}"),
    }
}

#[cfg(test)]
mod tests;
