//! From a changed file to a changed fleet.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use phase6_chassis::Applied;
use phase6_crds::{Document, Fault, check_update, differences};

use super::{fleet::Fleet, say};
use crate::{
    ending::Ending,
    files::{lines, load},
};

/// A document that is gone is looked for once more after this time before its service stops.
const MISSED: Duration = Duration::from_millis(100);

/// What to tell the person at the terminal.
pub(super) enum Change {
    /// The files have faults and nothing was taken from them.
    Faults(Vec<Fault>),
    /// One thing that changed.
    Told(String),
}

/// Reads the files and makes the fleet obey them. Either all of it is taken or nothing.
pub(super) async fn reload(fleet: &mut Fleet, paths: &[PathBuf]) -> Vec<Change> {
    let saved = newest_save(paths);
    let documents = match read(fleet, paths).await {
        Ok(documents) => documents,
        Err(faults) => {
            for member in fleet.members.values() {
                member.running.enforcer().refuse(lines(&faults));
            }
            return vec![Change::Faults(faults)];
        }
    };
    let mut told = Vec::new();
    let kept: BTreeSet<String> = documents.iter().map(|document| document.name().to_owned()).collect();
    let gone: Vec<String> = fleet.members.keys().filter(|name| !kept.contains(*name)).cloned().collect();
    for name in gone {
        told.push(Change::Told(format!("{name}: no longer in the file; stops after its requests")));
        let stopped = name.clone();
        fleet.stop_one(&name, move |drained| {
            say(format_args!("{stopped}: stopped{}", if drained { "" } else { "; some requests were cut" }));
        });
    }
    for document in documents {
        if fleet.members.contains_key(document.name()) {
            told.extend(retune(fleet, document, saved));
        } else if fleet.wants(&document) {
            let name = document.name().to_owned();
            told.push(Change::Told(match fleet.start_one(document).await {
                Ok(address) => format!("{name}: started at http://{address}"),
                Err(Ending::Findings(error) | Ending::Usage(error)) => {
                    format!("{name}: not started: {error}")
                }
            }));
        }
    }
    told
}

/// The documents of the files, checked against the fleet that runs.
async fn read(fleet: &Fleet, paths: &[PathBuf]) -> Result<Vec<Document>, Vec<Fault>> {
    let mut documents = load(paths)?;
    let lost = |documents: &[Document]| {
        fleet.members.keys().any(|name| documents.iter().all(|document| document.name() != name))
    };
    if lost(&documents) {
        // Stopping a service for a moment in an editor's way of saving would be a pity.
        tokio::time::sleep(MISSED).await;
        documents = load(paths)?;
    }
    let mut faults = Vec::new();
    for document in &documents {
        if let Some(member) = fleet.members.get(document.name()) {
            for problem in check_update(&document.value, &member.document.value) {
                faults.push(document.fault(&problem.field, problem.complaint));
            }
        }
    }
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}

/// Puts a document's policy into force; tells what changed from what to what.
fn retune(fleet: &mut Fleet, document: Document, saved: Option<SystemTime>) -> Option<Change> {
    let name = document.name().to_owned();
    let member = fleet.members.get(&name)?;
    let Some(policy) = fleet.compile(&document, Some(&member.published)) else {
        // The same policy as before: it clears the fault that a save in between may have left.
        member.running.enforcer().apply(member.published.clone());
        let told = outside(&member.document, &document).map(|text| Change::Told(format!("{name}: {text}")));
        fleet.members.get_mut(&name)?.document = document;
        return told;
    };
    let changes: Vec<String> =
        differences(&member.published.policy, &policy.policy).iter().map(ToString::to_string).collect();
    let applied = member.running.enforcer().apply(policy.clone());
    let after = saved.and_then(|saved| SystemTime::now().duration_since(saved).ok());
    let in_force = match (applied, after) {
        (Applied::Now, Some(after)) => format!("in force {} ms after the save", after.as_millis()),
        (Applied::Now, None) => "in force".to_owned(),
        (Applied::Already, _) => "a newer policy is in force".to_owned(),
    };
    let line = format!("{name}: {}; {in_force} (revision {})", changes.join(", "), policy.revision);
    let member = fleet.members.get_mut(&name)?;
    member.published = policy;
    member.document = document;
    Some(Change::Told(line))
}

/// What changed that has no meaning on a laptop.
fn outside(from: &Document, to: &Document) -> Option<&'static str> {
    let (from, to) = (&from.resource.spec, &to.resource.spec);
    let changed = from.replicas != to.replicas
        || from.autoscaling != to.autoscaling
        || from.image != to.image
        || from.resources != to.resources;
    changed.then_some("replicas, image and resources matter in a cluster; here one of each service runs")
}

/// When the newest of the files was saved.
fn newest_save(paths: &[PathBuf]) -> Option<SystemTime> {
    let modified = |path: &PathBuf| std::fs::metadata(path).ok()?.modified().ok();
    let inside = |path: &PathBuf| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    paths
        .iter()
        .flat_map(|path| if path.is_dir() { inside(path) } else { vec![path.clone()] })
        .filter_map(|path| modified(&path))
        .max()
}
