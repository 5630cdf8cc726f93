//! Tells when files may have changed and are whole again.
//!
//! A writer that is still at it is waited for: a file counts as whole when it was closed after
//! writing, or put in place by a rename. Where the system does not tell (and for a writer that
//! keeps a file open), a pause in the writing has to do. Watching is by folder, so that editors
//! which write a new file and rename it are seen, and so is a mounted `ConfigMap`, which changes
//! by a link. A slow look at the files themselves finds what no event told.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{sync::mpsc, time::Instant};

/// Pause after which a burst of events counts as over.
const BURST: Duration = Duration::from_millis(20);
/// Pause after which a file that was never closed counts as whole.
const UNCLOSED: Duration = Duration::from_millis(if cfg!(target_os = "linux") { 2_000 } else { 150 });
/// A burst that lasts for longer is told of while it goes on.
const LONGEST_BURST: Duration = Duration::from_secs(5);
/// How often the files themselves are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Watches files, or folders with what lies directly in them.
pub struct FileWatch {
    paths: Vec<PathBuf>,
    /// Gives events while it lives; none: only the slow look remains.
    _watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<Kind>,
    /// Keeps `events` open when there is no watcher.
    _keep: mpsc::Sender<Kind>,
    seen: Vec<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Somebody writes.
    Writing,
    /// Something is whole: closed, renamed, made or removed.
    Whole,
}

type Stamp = (PathBuf, Option<(SystemTime, u64)>);

impl FileWatch {
    /// Watches from now on.
    pub fn new(paths: &[PathBuf]) -> Self {
        let (tell, events) = mpsc::channel(64);
        let (teller, ours) = (tell.clone(), Ours::new(paths));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let event = event.ok().filter(|event| ours.are_among(&event.paths));
            if let Some(kind) = event.and_then(|event| kind(&event)) {
                // When the queue is full, what is in it tells enough.
                let _ = teller.try_send(kind);
            }
        });
        let folders: BTreeSet<PathBuf> = paths.iter().map(|path| folder(path)).collect();
        let watcher = watcher.and_then(|mut watcher| {
            for folder in &folders {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files are only looked at every {} s", LOOK.as_secs());
        }
        let seen = stamps(paths);
        Self { paths: paths.to_vec(), _watcher: watcher.ok(), events, _keep: tell, seen }
    }

    /// Waits until something may have changed and is whole. May tell without a change; never fails
    /// to tell of one for longer than a few seconds. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    let mut whole = event == Some(Kind::Whole);
                    let began = Instant::now();
                    let mut quiet_since = began;
                    loop {
                        let pause = if whole { BURST } else { UNCLOSED };
                        let due = (quiet_since + pause).min(began + LONGEST_BURST);
                        match tokio::time::timeout_at(due, self.events.recv()).await {
                            Ok(event) => {
                                whole = event == Some(Kind::Whole);
                                quiet_since = Instant::now();
                            }
                            Err(_) => break,
                        }
                    }
                    self.seen = stamps(&self.paths);
                    return;
                }
                () = tokio::time::sleep(LOOK) => {
                    let now = stamps(&self.paths);
                    if now != self.seen {
                        self.seen = now;
                        return;
                    }
                }
            }
        }
    }
}

/// The files that matter, among all that lie in the same folders.
struct Ours {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Ours {
    fn new(paths: &[PathBuf]) -> Self {
        let (folders, files) = paths.iter().cloned().partition(|path| path.is_dir());
        Self { files, folders }
    }

    fn are_among(&self, changed: &[PathBuf]) -> bool {
        changed.iter().any(|path| {
            let name = path.file_name().unwrap_or_default();
            // A mounted `ConfigMap` changes by a link of this name.
            name == "..data"
                || self.files.iter().any(|file| file.file_name() == Some(name))
                || self.folders.iter().any(|folder| path.parent() == Some(folder))
        })
    }
}

fn kind(event: &Event) -> Option<Kind> {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => Some(Kind::Whole),
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) | EventKind::Create(_) => {
            Some(Kind::Writing)
        }
        _ => None,
    }
}

fn folder(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            all.extend(entries.map(|entry| stamp(entry.path())));
        } else {
            all.push(stamp(path.clone()));
        }
    }
    all.sort();
    all
}

fn stamp(path: PathBuf) -> Stamp {
    let meta = std::fs::metadata(&path).ok();
    let stamp = meta.and_then(|meta| Some((meta.modified().ok()?, meta.len())));
    (path, stamp)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn told(watch: &mut FileWatch) -> Duration {
        let started = Instant::now();
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("told in time");
        started.elapsed()
    }

    #[tokio::test]
    async fn a_save_is_told_whether_written_in_place_or_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fleet.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new(std::slice::from_ref(&file));
        std::fs::write(&file, "b").unwrap();
        told(&mut watch).await;
        let temporary = folder.path().join(".fleet.yaml.swp");
        std::fs::write(&temporary, "c").unwrap();
        std::fs::rename(&temporary, &file).unwrap();
        told(&mut watch).await;
        std::fs::remove_file(&file).unwrap();
        told(&mut watch).await;
        std::fs::write(&file, "d").unwrap();
        told(&mut watch).await;
    }

    #[tokio::test]
    async fn a_mounted_config_map_is_seen_to_change() {
        let folder = tempfile::tempdir().unwrap();
        for (version, text) in [("v1", "1"), ("v2", "2")] {
            std::fs::create_dir(folder.path().join(version)).unwrap();
            std::fs::write(folder.path().join(version).join("policy.json"), text).unwrap();
        }
        let link = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("v1", link("..data")).unwrap();
        std::os::unix::fs::symlink("..data/policy.json", link("policy.json")).unwrap();
        let mut watch = FileWatch::new(&[link("policy.json")]);
        std::os::unix::fs::symlink("v2", link("..data_tmp")).unwrap();
        std::fs::rename(link("..data_tmp"), link("..data")).unwrap();
        told(&mut watch).await;
        assert_eq!(std::fs::read_to_string(link("policy.json")).unwrap(), "2");
    }

    #[tokio::test]
    async fn a_file_that_is_still_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fleet.yaml");
        std::fs::write(&file, "whole").unwrap();
        let mut watch = FileWatch::new(std::slice::from_ref(&file));
        let mut writer = std::fs::File::create(&file).unwrap();
        writer.write_all(b"ha").unwrap();
        writer.flush().unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(early.is_err(), "told although the writer is at it");
        writer.write_all(b"lf, then whole").unwrap();
        drop(writer);
        told(&mut watch).await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "half, then whole");
    }
}
