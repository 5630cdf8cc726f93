//! Executes plans: from a changed file to a changed fleet. Never waits for requests.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use phase6_chassis::ApplyOutcome;
use phase6_manifest::{Difference, Manifest, ManifestError, check_update};
use phase6_policy::PolicyDocument;

use super::{
    fleet::{DrainedService, Fleet},
    plan::{Action, plan},
};
use crate::{lines, load, output::notify, watch::FileWatch};

/// Pause before the files are read again because a manifest is missing.
const MISSING: Duration = Duration::from_millis(100);

/// Reads the files and brings the fleet to their manifests. All of them are taken or none.
pub(super) async fn reload(fleet: &mut Fleet, paths: &[PathBuf], watch: &FileWatch) {
    let saved = newest_modification(paths);
    let manifests = match read(fleet, paths).await {
        Ok(manifests) => manifests,
        Err(errors) => {
            for member in fleet.members.values() {
                member.running.enforcer().reject(lines(&errors));
            }
            return report(&errors);
        }
    };
    // The check follows the read: events of a writer that began in between have arrived by now.
    let is_being_written = watch.is_being_written();
    let mut later = Vec::new();
    let mut starts = Vec::new();
    for action in plan(&fleet.snapshot(), manifests, is_being_written, Timestamp::now()) {
        match action {
            Action::KeepWithoutManifest(name) => {
                notify(format_args!("{name}: missing while its file is being written; it keeps running"));
            }
            Action::Stop(name) => {
                notify(format_args!("{name}: removed from the file; it stops after its requests"));
                fleet.stop_one(&name);
            }
            Action::Retune { manifest, document, differences } => {
                retune(fleet, manifest, document, &differences, saved);
            }
            Action::Confirm { manifest, has_cluster_changes } => {
                confirm(fleet, manifest, has_cluster_changes);
            }
            Action::StartLater(manifest) => later.push(manifest),
            Action::Start(manifest) => starts.push(manifest),
        }
    }
    for name in fleet.replace_waiting(later) {
        notify(format_args!("{name}: starts once its port is free"));
    }
    for manifest in starts {
        start(fleet, manifest).await;
    }
}

/// Reports that a service has stopped, and starts it for the manifest that waited for that.
pub(super) async fn after_drain(fleet: &mut Fleet, drained: DrainedService) {
    let aborted = if drained.is_complete { "" } else { "; requests over the time limit were aborted" };
    notify(format_args!("{}: stopped{aborted}", drained.manifest));
    if let Some(manifest) = drained.next {
        start(fleet, manifest).await;
    }
}

async fn start(fleet: &mut Fleet, manifest: Manifest) {
    let name = manifest.name.clone();
    match fleet.start_one(manifest).await {
        Ok(address) => notify(format_args!("{name}: started at http://{address}")),
        // The error names the service.
        Err(error) => notify(format_args!("cannot start {error}; save the manifest again to try once more")),
    }
}

fn report(errors: &[ManifestError]) {
    let s = if errors.len() == 1 { "" } else { "s" };
    notify(format_args!("{} error{s}; the last valid policy stays in force:", errors.len()));
    for error in errors {
        notify(format_args!("  {error}"));
    }
}

/// Reads the manifests, and checks them as updates of the running ones.
async fn read(fleet: &Fleet, paths: &[PathBuf]) -> Result<Vec<Manifest>, Vec<ManifestError>> {
    let mut manifests = load(paths)?;
    let is_missing = |name: &String| manifests.iter().all(|manifest| manifest.name != *name);
    if fleet.members.keys().any(is_missing) {
        // Some editors write a file in two steps; a service must not stop in between.
        tokio::time::sleep(MISSING).await;
        manifests = load(paths)?;
    }
    let mut errors = Vec::new();
    for manifest in &manifests {
        if let Some(member) = fleet.members.get(&manifest.name) {
            let violations = check_update(&manifest.value, &member.manifest.value);
            errors.extend(violations.into_iter().map(|found| manifest.error(&found.field, found.message)));
        }
    }
    if errors.is_empty() { Ok(manifests) } else { Err(errors) }
}

fn retune(
    fleet: &mut Fleet,
    manifest: Manifest,
    document: PolicyDocument,
    differences: &[Difference],
    saved: Option<SystemTime>,
) {
    let Some(member) = fleet.members.get_mut(&manifest.name) else { return };
    let applied = member.running.enforcer().apply(document.clone());
    let since_save = saved.and_then(|saved| SystemTime::now().duration_since(saved).ok());
    let state = match (applied, since_save) {
        (ApplyOutcome::Applied, Some(elapsed)) => {
            format!("in force {} ms after the save", elapsed.as_millis())
        }
        (ApplyOutcome::Applied, None) => "in force".to_owned(),
        (ApplyOutcome::Unchanged, _) => "a newer policy is in force".to_owned(),
    };
    let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
    let revision = document.revision;
    notify(format_args!("{}: {}; {state} (revision {revision})", manifest.name, differences.join(", ")));
    member.document = document;
    member.manifest = manifest;
}

fn confirm(fleet: &mut Fleet, manifest: Manifest, has_cluster_changes: bool) {
    let Some(member) = fleet.members.get_mut(&manifest.name) else { return };
    member.running.enforcer().apply(member.document.clone());
    if has_cluster_changes {
        notify(format_args!(
            "{}: replicas, image and resources take effect in a cluster only; here one of each service runs",
            manifest.name
        ));
    }
    member.manifest = manifest;
}

/// Returns the time at which the newest of the files was saved.
fn newest_modification(paths: &[PathBuf]) -> Option<SystemTime> {
    let modified = |path: &PathBuf| std::fs::metadata(path).ok()?.modified().ok();
    let files_in = |path: &PathBuf| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    paths
        .iter()
        .flat_map(|path| if path.is_dir() { files_in(path) } else { vec![path.clone()] })
        .filter_map(|path| modified(&path))
        .max()
}
