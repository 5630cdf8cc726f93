//! From the running fleet and its manifests to the actions that make them agree. Pure.
//!
//! Order of the actions: stops, then retunes, then starts. A retune takes no time; a start can take as
//! long as a database takes to answer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use phase6_catalog::ServiceName;
use phase6_manifest::{Difference, Manifest, Owner, compile, differences};
use phase6_policy::PolicyDocument;

/// A step towards the manifests.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a plan has a few actions, and each is moved once")]
pub(super) enum Action {
    /// The manifest is missing while its file is still being written: the service keeps running.
    KeepWithoutManifest(String),
    /// The manifest was removed: the service stops after its requests.
    Stop(String),
    /// The policy differs: it is applied to the running service.
    Retune { manifest: Manifest, document: PolicyDocument, differences: Vec<Difference> },
    /// The policy is the same; clears the error that an invalid version in between may have left.
    Confirm {
        manifest: Manifest,
        /// Fields that act in a cluster only have changed.
        has_cluster_changes: bool,
    },
    /// The service starts as soon as the current holder of its port has stopped.
    StartLater(Manifest),
    /// The service starts now.
    Start(Manifest),
}

/// State of the fleet that the plan begins from.
pub(super) struct Snapshot<'a> {
    /// Identifies this run in the owner of every policy.
    pub(super) run: &'a str,
    /// Running services by the name of their manifest.
    pub(super) members: BTreeMap<&'a str, Member<'a>>,
    /// Services that are still finishing their requests.
    pub(super) draining: BTreeSet<&'static str>,
    /// Names of `--only`; empty: every service.
    pub(super) only: &'a [String],
}

/// A running service.
pub(super) struct Member<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) document: &'a PolicyDocument,
}

/// Returns the actions that bring the running fleet to `manifests`.
///
/// `is_being_written` is true while a writer has the files open: missing manifests may still come.
pub(super) fn plan(
    running: &Snapshot<'_>,
    manifests: Vec<Manifest>,
    is_being_written: bool,
    now: Timestamp,
) -> Vec<Action> {
    let declared: BTreeSet<&str> = manifests.iter().map(|manifest| manifest.name.as_str()).collect();
    let undeclared = running.members.keys().filter(|name| !declared.contains(**name));
    let mut actions: Vec<Action> = undeclared
        .map(|name| (*name).to_owned())
        .map(if is_being_written { Action::KeepWithoutManifest } else { Action::Stop })
        .collect();
    let (mut later, mut starts) = (Vec::new(), Vec::new());
    for manifest in manifests {
        match running.members.get(manifest.name.as_str()) {
            Some(member) => actions.push(update(running, member, manifest, now)),
            None if !running.includes(manifest.service) => {}
            None if running.is_port_held(&manifest) => later.push(Action::StartLater(manifest)),
            None => starts.push(Action::Start(manifest)),
        }
    }
    actions.extend(later);
    actions.extend(starts);
    actions
}

/// Compiles the document that follows `previous`; `None` if the policy is the same.
pub(super) fn next_document(
    run: &str,
    manifest: &Manifest,
    previous: Option<&PolicyDocument>,
    now: Timestamp,
) -> Option<PolicyDocument> {
    let uid = format!("{run}/{}", manifest.name);
    let generation = previous.map_or(1, |previous| previous.generation + 1);
    compile(Owner { uid: &uid, generation }, manifest.policy.clone(), previous, 1, now)
}

fn update(running: &Snapshot<'_>, member: &Member<'_>, manifest: Manifest, now: Timestamp) -> Action {
    match next_document(running.run, &manifest, Some(member.document), now) {
        Some(document) => {
            let differences = differences(&member.document.policy, &document.policy);
            Action::Retune { manifest, document, differences }
        }
        None => Action::Confirm {
            has_cluster_changes: member.manifest.cluster_settings() != manifest.cluster_settings(),
            manifest,
        },
    }
}

impl Snapshot<'_> {
    /// True unless `--only` excludes the service.
    pub(super) fn includes(&self, service: ServiceName) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == service.as_str())
    }

    /// True while another manifest's service, or a service that drains, has the port of this one.
    fn is_port_held(&self, manifest: &Manifest) -> bool {
        let service = manifest.service;
        self.draining.contains(service.as_str())
            || self
                .members
                .values()
                .any(|member| member.manifest.service == service && member.manifest.name != manifest.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "up-1";

    /// A manifest for each `(name, service, spec)`.
    fn manifests(specs: &[(&str, &str, &str)]) -> Vec<Manifest> {
        let document = |(name, service, spec): &(&str, &str, &str)| {
            format!(
                "apiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\nmetadata: {{name: {name}}}\n\
                 spec: {{service: {service}{spec}}}\n"
            )
        };
        let text: Vec<_> = specs.iter().map(document).collect();
        phase6_manifest::read("fleet.yaml", &text.join("---\n")).unwrap()
    }

    /// Plans from a fleet that runs `before` towards `after`.
    fn planned(
        before: &[(&str, &str, &str)],
        after: &[(&str, &str, &str)],
        draining: &[&'static str],
        is_being_written: bool,
    ) -> Vec<String> {
        let before = manifests(before);
        let documents: Vec<_> = before
            .iter()
            .map(|manifest| next_document(RUN, manifest, None, Timestamp::UNIX_EPOCH).unwrap())
            .collect();
        let members = before.iter().zip(&documents);
        let members = members
            .map(|(manifest, document)| (manifest.name.as_str(), Member { manifest, document }))
            .collect();
        let only = [];
        let draining = draining.iter().copied().collect();
        let running = Snapshot { run: RUN, members, draining, only: &only };
        let actions = plan(&running, manifests(after), is_being_written, Timestamp::UNIX_EPOCH);
        let describe = |action: &Action| match action {
            Action::KeepWithoutManifest(name) => format!("keep {name}"),
            Action::Stop(name) => format!("stop {name}"),
            Action::Retune { manifest, document, differences } => {
                let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
                format!("retune {} to {}: {}", manifest.name, document.revision, differences.join(", "))
            }
            Action::Confirm { manifest, has_cluster_changes: true } => {
                format!("confirm {}, changed for clusters", manifest.name)
            }
            Action::Confirm { manifest, .. } => format!("confirm {}", manifest.name),
            Action::StartLater(manifest) => format!("start {} later", manifest.name),
            Action::Start(manifest) => format!("start {}", manifest.name),
        };
        actions.iter().map(describe).collect()
    }

    const WEB: (&str, &str, &str) = ("web", "web", "");
    const META: (&str, &str, &str) = ("meta", "meta", "");
    const META_50: (&str, &str, &str) = ("meta", "meta", ", tracing: {samplingRate: 0.5}");

    #[test]
    fn unchanged_manifests_are_only_confirmed() {
        assert_eq!(planned(&[WEB, META], &[WEB, META], &[], false), ["confirm web", "confirm meta"]);
    }

    #[test]
    fn a_changed_policy_is_a_retune_to_the_next_revision() {
        let actions = planned(&[META], &[META_50], &[], false);
        assert_eq!(actions, ["retune meta to 2: tracing.samplingRate 0.1 -> 0.5"]);
    }

    #[test]
    fn changed_fields_outside_of_the_policy_are_noted() {
        let actions = planned(&[META], &[("meta", "meta", ", replicas: 3")], &[], false);
        assert_eq!(actions, ["confirm meta, changed for clusters"]);
    }

    #[test]
    fn stops_come_before_retunes_and_starts_come_last() {
        let actions = planned(&[WEB, META], &[("coach", "coach", ""), META_50], &[], false);
        assert_eq!(actions[0], "stop web");
        assert!(actions[1].starts_with("retune meta"), "{actions:?}");
        assert_eq!(actions[2], "start coach");
    }

    #[test]
    fn a_service_whose_manifest_is_missing_keeps_running_while_the_file_is_being_written() {
        assert_eq!(planned(&[WEB, META], &[WEB], &[], true), ["keep meta", "confirm web"]);
        assert_eq!(planned(&[WEB, META], &[WEB], &[], false), ["stop meta", "confirm web"]);
    }

    #[test]
    fn a_service_starts_later_while_its_port_is_held() {
        let renamed = ("web-2", "web", "");
        assert_eq!(planned(&[WEB], &[renamed], &[], false), ["stop web", "start web-2 later"]);
        assert_eq!(planned(&[], &[META], &["meta"], false), ["start meta later"]);
        assert_eq!(planned(&[], &[META], &["web"], false), ["start meta"]);
    }
}
