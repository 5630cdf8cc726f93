//! The `Phase6Service` resource: its type, its rules, and how it becomes a policy.
//!
//! ```text
//! YAML --read--> Document --schema + CEL--> Phase6Service --compile--> PolicyDocument
//!        \------------------- every fault, with file, line and what would be accepted
//! ```
//!
//! The schema and the CEL rules are the ones in `crds/phase6services.yaml`, so what
//! `phase6 explain` accepts is what the API server accepts. Does no I/O.

mod compile;
mod diff;
mod explain;
mod read;
mod reference;
mod resource;
mod rules;

pub use compile::{compile, fingerprint};
pub use diff::{Difference, differences};
pub use explain::{Origin, Setting, settings};
pub use read::{Document, Fault, doubles, read};
pub use reference::reference_markdown;
pub use resource::{
    Autoscaling, Phase6Service, Phase6ServiceSpec, Phase6ServiceStatus, PolicyStatus, ServiceName,
};
pub use rules::{Problem, check, check_policy, check_update, definition_yaml};
