//! Source of a service's policy on disk: a compiled document, or manifests.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use phase6_catalog::ServiceName;
use phase6_chassis::Enforcer;
use phase6_manifest::{Owner, check_policy, compile};
use phase6_policy::PolicyDocument;
use serde_json::json;

use super::ServeOptions;
use crate::{lines, load};

/// Source of the policy.
pub(super) enum PolicySource {
    /// File with a compiled document.
    Compiled(PathBuf),
    /// Manifests, compiled here.
    Manifests(Manifests),
    /// None: the defaults are enforced.
    Defaults,
}

/// Manifests of which one declares the service.
pub(super) struct Manifests {
    paths: Vec<PathBuf>,
    service: ServiceName,
    /// Identifies this run as the owner of the policy.
    run: String,
    previous: Option<Box<PolicyDocument>>,
}

impl PolicySource {
    pub(super) fn new(options: &ServeOptions, service: ServiceName) -> Self {
        if let Some(file) = &options.policy {
            return Self::Compiled(file.clone());
        }
        if options.files.is_empty() {
            return Self::Defaults;
        }
        Self::Manifests(Manifests {
            paths: options.files.clone(),
            service,
            run: format!("serve-{}", Timestamp::now().as_millisecond()),
            previous: None,
        })
    }

    /// Returns the files to watch.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Compiled(file) => vec![file.clone()],
            Self::Manifests(manifests) => manifests.paths.clone(),
            Self::Defaults => vec![],
        }
    }

    /// Reads the policy and applies it. On an error the last valid policy stays in force, and `/policyz`
    /// shows the error.
    pub(super) fn read(&mut self, enforcer: &Enforcer) -> Result<(), String> {
        let document = match self {
            Self::Defaults => return Ok(()),
            Self::Compiled(file) => read_compiled(file),
            Self::Manifests(manifests) => manifests.compile(),
        };
        apply(document, enforcer)
    }
}

/// Applies the compiled document in `text`; `origin` names it in errors.
pub(super) fn enforce(text: &[u8], origin: &str, enforcer: &Enforcer) -> Result<(), String> {
    apply(parse(text, origin), enforcer)
}

fn apply(document: Result<PolicyDocument, String>, enforcer: &Enforcer) -> Result<(), String> {
    match document {
        Ok(document) => {
            enforcer.apply(document);
            Ok(())
        }
        Err(error) => {
            enforcer.reject(error.clone());
            Err(error)
        }
    }
}

fn read_compiled(file: &Path) -> Result<PolicyDocument, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    parse(&text, &file.display().to_string())
}

/// Parses a compiled document and checks it by the rules of a resource: a document that was made by hand,
/// or by another version, may never have passed them.
fn parse(text: &[u8], origin: &str) -> Result<PolicyDocument, String> {
    let document: PolicyDocument = serde_json::from_slice(text)
        .map_err(|error| format!("{origin}: invalid policy document: {error}"))?;
    // The parsed form: fields that only a newer version knows are not an error.
    let violations = check_policy(&json!(document.policy));
    if violations.is_empty() {
        return Ok(document);
    }
    let lines: Vec<_> = violations.iter().map(|violation| format!("{origin}: {violation}")).collect();
    Err(lines.join("\n"))
}

impl Manifests {
    fn compile(&mut self) -> Result<PolicyDocument, String> {
        let manifests = load(&self.paths).map_err(|errors| lines(&errors))?;
        let manifest = manifests
            .into_iter()
            .find(|manifest| manifest.service == self.service)
            .ok_or_else(|| format!("no document declares the service {}", self.service))?;
        let previous = self.previous.as_deref();
        let owner =
            Owner { uid: &self.run, generation: previous.map_or(1, |previous| previous.generation + 1) };
        let next = compile(owner, manifest.policy, previous, 1, Timestamp::now()).map(Box::new);
        self.previous = next.or(self.previous.take());
        Ok(*self.previous.clone().expect("without a previous document there is always a next one"))
    }
}
