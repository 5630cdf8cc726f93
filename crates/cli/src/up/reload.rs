//! From a changed file to a changed fleet.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use phase6_chassis::{Applied, FileWatch};
use phase6_crds::{Document, Fault, check_update, differences};

use super::fleet::Fleet;
use crate::{
    ending::Ending,
    files::{lines, load},
    output::say,
};

/// A document that is gone is looked for once more after this time before its service stops.
const MISSED: Duration = Duration::from_millis(100);

/// Reads the files and makes the fleet obey them. Either all of it is taken or nothing; but while
/// somebody still writes a file, what is missing from it may yet come and stops nothing.
///
/// Never waits for requests: a service that is to start and still finishes its last ones starts
/// later.
pub(super) async fn reload(fleet: &mut Fleet, paths: &[PathBuf], watch: &FileWatch) {
    let saved = newest_save(paths);
    let documents = match read(fleet, paths).await {
        Ok(documents) => documents,
        Err(faults) => {
            for member in fleet.members.values() {
                member.running.enforcer().refuse(lines(&faults));
            }
            return tell_faults(&faults);
        }
    };
    let kept: BTreeSet<String> = documents.iter().map(|document| document.name().to_owned()).collect();
    let gone: Vec<String> = fleet.members.keys().filter(|name| !kept.contains(*name)).cloned().collect();
    // Asked after reading: a writer that began in between was heard of by now.
    let half_written = watch.is_being_written();
    for name in gone {
        if half_written {
            say(format_args!("{name}: missing, but the file is still being written; goes on"));
        } else {
            say(format_args!("{name}: no longer in the file; stops after its requests"));
            fleet.stop_one(&name);
        }
    }
    // What is quick comes first: a start can take as long as its database takes to answer.
    let (running, others): (Vec<_>, Vec<_>) =
        documents.into_iter().partition(|document| fleet.members.contains_key(document.name()));
    for document in running {
        if let Some(line) = retune(fleet, document, saved) {
            say(line);
        }
    }
    let (later, now): (Vec<_>, Vec<_>) = others
        .into_iter()
        .filter(|document| fleet.wants(document))
        .partition(|document| fleet.is_taken(document));
    for name in fleet.wait_with(later) {
        say(format_args!("{name}: starts when the last requests of its service are done"));
    }
    for document in now {
        start(fleet, document).await;
    }
}

/// Starts a service for a document, and tells.
pub(super) async fn start(fleet: &mut Fleet, document: Document) {
    let name = document.name().to_owned();
    match fleet.start_one(document).await {
        Ok(address) => say(format_args!("{name}: started at http://{address}")),
        Err(Ending::Findings(error) | Ending::Usage(error)) => {
            say(format_args!("{name}: not started: {error}"));
        }
    }
}

fn tell_faults(faults: &[Fault]) {
    let s = if faults.len() == 1 { "" } else { "s" };
    say(format_args!("{} fault{s}; the fleet goes on under the last good policy:", faults.len()));
    for fault in faults {
        say(format_args!("  {fault}"));
    }
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
fn retune(fleet: &mut Fleet, document: Document, saved: Option<SystemTime>) -> Option<String> {
    let name = document.name().to_owned();
    let member = fleet.members.get(&name)?;
    let Some(policy) = fleet.compile(&document, Some(&member.published)) else {
        // The same policy as before: it clears the fault that a save in between may have left.
        member.running.enforcer().apply(member.published.clone());
        let told = outside(&member.document, &document).map(|text| format!("{name}: {text}"));
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
    Some(line)
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
