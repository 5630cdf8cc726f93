//! Where a service's policy comes from, and how it is held against the rules.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use phase6_chassis::{Definition, Enforcer};
use phase6_crds::{check_policy, compile};
use phase6_policy::PolicyDocument;
use serde_json::json;

use crate::{args::Serve, files};

/// Where the policy comes from.
pub(super) enum Source {
    /// A compiled document.
    Compiled(PathBuf),
    /// Documents as people write them.
    Written(Written),
    /// Nowhere: the defaults.
    Defaults,
}

/// Documents as people write them, of which one service's is obeyed.
pub(super) struct Written {
    paths: Vec<PathBuf>,
    service: &'static str,
    /// Identity of the policy's owner: this run.
    run: String,
    previous: Option<Box<PolicyDocument>>,
}

impl Source {
    pub(super) fn new(arguments: &Serve, definition: &Definition) -> Self {
        if let Some(file) = &arguments.policy {
            return Self::Compiled(file.clone());
        }
        if arguments.files.is_empty() {
            return Self::Defaults;
        }
        Self::Written(Written {
            paths: arguments.files.clone(),
            service: definition.name,
            run: format!("serve-{}", Timestamp::now().as_millisecond()),
            previous: None,
        })
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Compiled(file) => vec![file.clone()],
            Self::Written(written) => written.paths.clone(),
            Self::Defaults => vec![],
        }
    }

    /// Reads the policy and puts it into force; on a fault the last good one stays and
    /// `/policyz` says so.
    pub(super) fn read(&mut self, enforcer: &Enforcer) -> Result<(), String> {
        let policy = match self {
            Self::Defaults => return Ok(()),
            Self::Compiled(file) => compiled(file),
            Self::Written(written) => written.compile(),
        };
        put_into_force(policy, enforcer)
    }
}

/// Obeys a document; on a fault the last good one stays, and `/policyz` says so.
fn put_into_force(policy: Result<PolicyDocument, String>, enforcer: &Enforcer) -> Result<(), String> {
    match policy {
        Ok(policy) => {
            enforcer.apply(policy);
            Ok(())
        }
        Err(error) => {
            enforcer.refuse(error.clone());
            Err(error)
        }
    }
}

/// Obeys the text of a compiled document that came from `origin`.
pub(super) fn obey(text: &[u8], origin: &str, enforcer: &Enforcer) -> Result<(), String> {
    put_into_force(parsed(text, origin), enforcer)
}

fn compiled(file: &Path) -> Result<PolicyDocument, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    parsed(&text, &file.display().to_string())
}

/// A compiled document, held against the rules that a resource must keep: a document made by hand,
/// or by another version, may never have met them.
fn parsed(text: &[u8], origin: &str) -> Result<PolicyDocument, String> {
    let document: PolicyDocument =
        serde_json::from_slice(text).map_err(|error| format!("policy document is not usable: {error}"))?;
    // As it was understood: fields that only a newer version knows are no fault.
    let problems = check_policy(&json!(document.policy));
    if problems.is_empty() {
        return Ok(document);
    }
    let lines: Vec<_> = problems.iter().map(|problem| format!("{origin}: {problem}")).collect();
    Err(lines.join("\n"))
}

impl Written {
    /// The policy that the documents ask for now.
    fn compile(&mut self) -> Result<PolicyDocument, String> {
        let documents = files::load(&self.paths).map_err(|faults| files::lines(&faults))?;
        let document = documents
            .into_iter()
            .find(|document| document.resource.spec.service.as_str() == self.service)
            .ok_or_else(|| format!("no document declares the service {}", self.service))?;
        let mut resource = document.resource;
        resource.metadata.uid = Some(self.run.clone());
        let next = compile(&resource, self.previous.as_deref(), 1, Timestamp::now()).map(Box::new);
        self.previous = next.or(self.previous.take());
        Ok(*self.previous.clone().expect("without a previous policy there is always a new one"))
    }
}
