//! Reports when watched files may have changed and are complete, and whether somebody is still writing them.
//!
//! A file is complete once it was closed after writing, or was put in place by a rename. A writer that pauses
//! with its file open is reported all the same, but [`FileWatch::is_being_written`] then returns true until
//! the writer has been silent for long. Watches are on folders, so that editors which write a new file and
//! rename it are seen, and so is a mounted `ConfigMap`, which changes by a link; for a link, the folder of its
//! target is watched as well. A slow poll of the files finds changes without events.

mod files;
mod pending;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::{
    files::{WatchedFiles, manifests_in, resolve},
    pending::PendingChanges,
};

/// Pause between two polls of the files.
const POLL: Duration = Duration::from_secs(2);

/// Watches files, and folders with the YAML files directly in them.
pub(crate) struct FileWatch {
    paths: Vec<PathBuf>,
    /// Delivers events; `None`: only the poll remains.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    // Apart from the future that waits for it, so that no event is lost when a caller stops waiting.
    pending: Arc<Mutex<PendingChanges>>,
    has_events: Arc<Notify>,
    next_poll: Instant,
    seen: Vec<Version>,
}

/// A file with its time of modification and its size, if it exists.
type Version = (PathBuf, Option<(SystemTime, u64)>);

impl FileWatch {
    /// Starts watching: changes of files that are read after this are reported.
    pub(crate) fn new(paths: &[PathBuf]) -> Self {
        let pending = Arc::new(Mutex::new(PendingChanges::default()));
        let has_events = Arc::new(Notify::new());
        let (receiver, notifier) = (Arc::clone(&pending), Arc::clone(&has_events));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| receiver.lock().add(&event, Instant::now())) {
                notifier.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "no file events; files are polled every {} s", POLL.as_secs());
        }
        let mut watch = Self {
            paths: paths.to_vec(),
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            pending,
            has_events,
            next_poll: Instant::now() + POLL,
            seen: vec![],
        };
        watch.update_watches();
        watch.seen = versions(&watch.paths);
        watch
    }

    /// Waits until a file may have changed and is complete, or a writer has paused. May return without a
    /// change; reports every change within a few seconds. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let due = self.pending.lock().due().map_or(self.next_poll, |due| due.min(self.next_poll));
            tokio::select! {
                // Events first: the poll is for changes without events.
                biased;
                () = self.has_events.notified() => continue,
                () = tokio::time::sleep_until(due) => {}
            }
            let now = Instant::now();
            let is_due = self.pending.lock().take(now);
            if is_due || (now >= self.next_poll && self.poll(now)) {
                break;
            }
        }
        self.update_watches();
        self.seen = versions(&self.paths);
        self.next_poll = Instant::now() + POLL;
    }

    /// True if somebody has begun to write one of the files and may not have finished: content that is
    /// missing from it may still come.
    pub(crate) fn is_being_written(&self) -> bool {
        self.pending.lock().is_being_written()
    }

    /// True for names of manifests in a folder: YAML, without the leading dot of the files that editors keep.
    pub(crate) fn is_manifest(file: &Path) -> bool {
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        is_yaml && !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    }

    /// Polls the files. Returns true if they changed without an event.
    fn poll(&mut self, now: Instant) -> bool {
        self.next_poll = now + POLL;
        let versions = versions(&self.paths);
        let mut pending = self.pending.lock();
        // Changes with events are reported when they are due.
        if versions == self.seen || pending.has_unreported() {
            return false;
        }
        // Without an event for the write there is none for its end either.
        let changed = versions.into_iter().filter(|version| !self.seen.contains(version));
        changed.for_each(|(path, _)| pending.add_write(resolve(&path), now));
        true
    }

    /// Watches the folders in which the files are now; links may have other targets than before.
    fn update_watches(&mut self) {
        let files = WatchedFiles::find(&self.paths);
        let folders = files.all_folders();
        self.pending.lock().files = files;
        let Some(watcher) = &mut self.watcher else { return };
        for unwatched in self.watched.difference(&folders) {
            // Fails if the folder itself was deleted.
            let _ = watcher.unwatch(unwatched);
        }
        let mut watched = BTreeSet::new();
        for folder in folders {
            if self.watched.contains(&folder) {
                watched.insert(folder);
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(folder);
                }
                Err(error) => {
                    let folder = folder.display();
                    let seconds = POLL.as_secs();
                    tracing::warn!(
                        %error,
                        %folder,
                        "failed to watch the folder; its files are polled every {seconds} s"
                    );
                }
            }
        }
        self.watched = watched;
    }
}

fn versions(paths: &[PathBuf]) -> Vec<Version> {
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            all.extend(manifests_in(path).into_iter().map(version));
        } else {
            all.push(version(path.clone()));
        }
    }
    all.sort();
    all
}

fn version(path: PathBuf) -> Version {
    let metadata = std::fs::metadata(&path).ok();
    let version = metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())));
    (path, version)
}

#[cfg(test)]
mod tests;
