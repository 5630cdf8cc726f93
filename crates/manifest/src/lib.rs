//! `Phase6Service` manifests without a cluster: reads them from YAML, checks them by the rules of the
//! API server, and compiles the policy that replicas enforce.
//!
//! ```text
//! YAML --read--> Manifest --check: schema + CEL--> Policy --compile--> PolicyDocument
//!        \------ every error, with file, line, field, value and what is accepted
//! ```
//!
//! The schema and the CEL rules are those of `crds/phase6services.yaml`, so a manifest that
//! `phase6 explain` accepts is one that the API server accepts. Does no I/O, and knows none of the types
//! of Kubernetes: that keeps its client and its types out of the build of `phase6 up`.

mod compile;
mod definition;
mod difference;
mod one_line;
mod read;
mod rules;
mod settings;
mod structure;

pub use compile::{Owner, compile, fingerprint};
pub use difference::{Difference, differences};
pub use read::{Manifest, ManifestError, duplicates, read};
pub use rules::{Violation, check, check_policy, check_update};
pub use settings::{Origin, Setting, settings};
