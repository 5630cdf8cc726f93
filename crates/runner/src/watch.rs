//! Tells when files may have changed and are whole again, and whether somebody still writes them.
//!
//! A writer that is still at it is waited for: a file counts as whole when it was closed after
//! writing, or put in place by a rename. A writer that pauses and keeps its file open is told of all
//! the same, but [`FileWatch::is_being_written`] then says that more may come, until it has been
//! silent for long. Watching is by folder, so that editors which write a new file and rename it are
//! seen, and so is a mounted `ConfigMap`, which changes by a link; where a file is a link, the folder
//! of what it leads to is watched as well. A slow look at the files themselves finds what no event
//! told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Pause after which a burst of events counts as over.
const BURST: Duration = Duration::from_millis(20);
/// Pause after which a file that was not closed is told of nevertheless.
const UNCLOSED: Duration = Duration::from_millis(if cfg!(target_os = "linux") { 2_000 } else { 150 });
/// Silence after which a writer that did not close its file counts as done. Only Linux tells of
/// closing.
const ABANDONED: Duration = Duration::from_secs(if cfg!(target_os = "linux") { 30 } else { 2 });
/// A burst that lasts for longer is told of while it goes on.
const LONGEST_BURST: Duration = Duration::from_secs(5);
/// How often the files themselves are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Links that lead to links are followed so far.
const LINKS: usize = 8;

/// Watches files, or folders with the YAML files that lie directly in them.
pub struct FileWatch {
    paths: Vec<PathBuf>,
    /// Gives events while it lives; none: only the slow look remains.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    heard: Arc<Mutex<Heard>>,
    news: Arc<Notify>,
    next_look: Instant,
    seen: Vec<Stamp>,
}

/// What events have told. Kept apart from the waiting for them, so that nothing is lost when a caller
/// stops waiting.
#[derive(Debug)]
struct Heard {
    ours: Ours,
    /// Files that were written and not closed since, each with when it was last written.
    writing: BTreeMap<PathBuf, Instant>,
    /// When the first and the last of the events came that the caller was not told of.
    untold: Option<(Instant, Instant)>,
    /// What the last event was.
    last: Kind,
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
    /// Watches from now on: what is read after this and changes later is told.
    pub fn new(paths: &[PathBuf]) -> Self {
        let heard = Arc::new(Mutex::new(Heard {
            ours: Ours::default(),
            writing: BTreeMap::new(),
            untold: None,
            last: Kind::Whole,
        }));
        let news = Arc::new(Notify::new());
        let (hearing, teller) = (Arc::clone(&heard), Arc::clone(&news));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| hearing.lock().hear(&event, Instant::now())) {
                teller.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files are only looked at every {} s", LOOK.as_secs());
        }
        let mut watch = Self {
            paths: paths.to_vec(),
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            heard,
            news,
            next_look: Instant::now() + LOOK,
            seen: vec![],
        };
        watch.follow();
        watch.seen = stamps(&watch.paths);
        watch
    }

    /// Waits until something may have changed and is whole, or a writer has paused. May tell without a
    /// change; never fails to tell of one for longer than a few seconds. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            let due = self.heard.lock().due().map_or(self.next_look, |due| due.min(self.next_look));
            tokio::select! {
                // What came first is heard first: the look below is for what no event told.
                biased;
                () = self.news.notified() => continue,
                () = tokio::time::sleep_until(due) => {}
            }
            let now = Instant::now();
            let told = self.heard.lock().tell(now);
            if told || (now >= self.next_look && self.look(now)) {
                break;
            }
        }
        self.follow();
        self.seen = stamps(&self.paths);
        self.next_look = Instant::now() + LOOK;
    }

    /// Whether somebody has begun to write one of the files and may not have finished, so that what is
    /// missing from it may yet come.
    pub fn is_being_written(&self) -> bool {
        !self.heard.lock().writing.is_empty()
    }

    /// Whether a file in a folder counts, by its name: YAML, and none of those that editors keep
    /// beside, with a leading dot.
    pub fn is_manifest(file: &Path) -> bool {
        let yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        yaml && !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    }

    /// Looks at the files themselves; true if they changed without an event.
    fn look(&mut self, now: Instant) -> bool {
        self.next_look = now + LOOK;
        let stamps = stamps(&self.paths);
        let mut heard = self.heard.lock();
        // What events tell of is told in their time.
        if stamps == self.seen || heard.untold.is_some() {
            return false;
        }
        // Nobody told of the writing, so nobody will tell of its end.
        let changed = stamps.into_iter().filter(|stamp| !self.seen.contains(stamp));
        heard.writing.extend(changed.map(|(path, _)| (real(&path), now)));
        true
    }

    /// Watches the folders in which the files are now; links may lead elsewhere than before.
    fn follow(&mut self) {
        let ours = Ours::find(&self.paths);
        let folders = ours.all_folders();
        self.heard.lock().ours = ours;
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(&folders) {
            // The folder itself may be gone.
            let _ = watcher.unwatch(gone);
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
                    tracing::warn!(%error, %folder, "only looked at every {} s", LOOK.as_secs());
                }
            }
        }
        self.watched = watched;
    }
}

impl Heard {
    /// Takes note of an event; true if it matters.
    fn hear(&mut self, event: &Event, now: Instant) -> bool {
        let Some(kind) = kind(event).filter(|_| self.ours.are_among(&event.paths)) else { return false };
        for path in &event.paths {
            match kind {
                // A link is made whole.
                Kind::Writing if !path.is_symlink() && self.ours.is_file(path) => {
                    self.writing.insert(path.clone(), now);
                }
                _ => {
                    self.writing.remove(path);
                }
            }
        }
        let whole = event.paths.iter().all(|path| !self.writing.contains_key(path));
        self.last = if whole { Kind::Whole } else { Kind::Writing };
        self.untold = Some((self.untold.map_or(now, |(first, _)| first), now));
        true
    }

    /// When the caller is to be told, if nothing more comes.
    fn due(&self) -> Option<Instant> {
        let pause = match self.last {
            Kind::Writing => UNCLOSED,
            Kind::Whole => BURST,
        };
        let over = self.untold.map(|(first, last)| (last + pause).min(first + LONGEST_BURST));
        over.into_iter().chain(self.writing.values().map(|last| *last + ABANDONED)).min()
    }

    /// Whether the caller is to be told by now. If so, it counts as told.
    fn tell(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.writing.retain(|_, last| *last + ABANDONED > now);
            self.untold = None;
        }
        due
    }
}

/// The files that matter, among all that lie in the same folders.
#[derive(Debug, Default)]
struct Ours {
    /// As events name them: the folder without links, then the name.
    files: BTreeSet<PathBuf>,
    /// Those of which every document counts.
    folders: BTreeSet<PathBuf>,
}

impl Ours {
    /// The given ones, and what they lead to where they are links.
    fn find(paths: &[PathBuf]) -> Self {
        let mut ours = Self::default();
        for path in paths {
            if path.is_dir() {
                ours.folders.insert(real(path));
                for file in documents(path) {
                    ours.add(&file);
                }
            } else {
                ours.add(path);
            }
        }
        ours
    }

    fn add(&mut self, file: &Path) {
        let mut file = file.to_owned();
        for _ in 0..LINKS {
            let folder = folder(&file);
            self.files.insert(folder.join(file.file_name().unwrap_or_default()));
            match std::fs::read_link(&file) {
                Ok(target) => file = folder.join(target),
                Err(_) => break,
            }
        }
    }

    fn all_folders(&self) -> BTreeSet<PathBuf> {
        let parents = self.files.iter().filter_map(|file| file.parent());
        parents.map(Path::to_owned).chain(self.folders.iter().cloned()).collect()
    }

    fn is_file(&self, path: &Path) -> bool {
        let inside = path.parent().is_some_and(|parent| self.folders.contains(parent));
        self.files.contains(path) || (inside && FileWatch::is_manifest(path))
    }

    fn are_among(&self, changed: &[PathBuf]) -> bool {
        // A mounted `ConfigMap` changes by a link of this name.
        changed.iter().any(|path| self.is_file(path) || path.file_name().is_some_and(|name| name == "..data"))
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

/// The folder of a file, without links.
fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => real(parent),
        _ => real(Path::new(".")),
    }
}

/// A path without links, as far as there is one.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The documents directly in a folder.
fn documents(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| FileWatch::is_manifest(path)).collect()
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            all.extend(documents(path).into_iter().map(stamp));
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

    /// A service was stopped because its document had not been written yet.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_writer_that_pauses_is_told_of_but_what_it_writes_does_not_count_as_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fleet.yaml");
        std::fs::write(&file, "whole").unwrap();
        let mut watch = FileWatch::new(std::slice::from_ref(&file));
        let mut writer = std::fs::File::create(&file).unwrap();
        writer.write_all(b"half").unwrap();
        assert!(told(&mut watch).await >= Duration::from_secs(1), "it may yet go on");
        assert!(watch.is_being_written());
        // Time for the slow look, which must not take it for whole either.
        let _ = tokio::time::timeout(LOOK + BURST, watch.changed()).await;
        assert!(watch.is_being_written());
        drop(writer);
        assert!(told(&mut watch).await < Duration::from_secs(1));
        assert!(!watch.is_being_written());
    }

    #[test]
    fn a_writer_that_never_closes_its_file_counts_as_done_after_a_long_silence() {
        let file = PathBuf::from("/folder/fleet.yaml");
        let ours = Ours { files: [file.clone()].into(), folders: BTreeSet::new() };
        let mut heard = Heard { ours, writing: BTreeMap::new(), untold: None, last: Kind::Whole };
        let written = Event::new(EventKind::Modify(ModifyKind::Any)).add_path(file);
        let began = Instant::now();
        assert!(heard.hear(&written, began));
        assert!(!heard.tell(began + BURST));
        assert!(heard.tell(began + UNCLOSED));
        assert!(!heard.writing.is_empty(), "told, and not whole");
        let again = began + Duration::from_secs(1);
        heard.hear(&written, again);
        assert!(heard.tell(again + UNCLOSED));
        let silent = again + ABANDONED;
        assert_eq!(heard.due(), Some(silent));
        assert!(!heard.tell(silent - BURST));
        assert!(heard.tell(silent), "told once more");
        assert!(heard.writing.is_empty());
        assert_eq!(heard.due(), None);
    }

    #[tokio::test]
    async fn a_writer_of_whom_no_event_tells_may_still_be_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fleet.yaml");
        std::fs::write(&file, "whole").unwrap();
        let mut watch = FileWatch::new(std::slice::from_ref(&file));
        watch.watcher = None;
        std::fs::write(&file, "half").unwrap();
        told(&mut watch).await;
        assert!(watch.is_being_written());
    }

    /// What editors keep beside a document would hold up what waits for whole files.
    #[tokio::test]
    async fn in_a_folder_only_documents_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FileWatch::new(&[folder.path().to_owned()]);
        let beside: Vec<_> = [".fleet.yaml.swp", ".fleet.yaml", "notes.txt"]
            .map(|name| std::fs::File::create(folder.path().join(name)).unwrap())
            .into();
        std::fs::write(folder.path().join("fleet.yaml"), "whole").unwrap();
        assert!(told(&mut watch).await < Duration::from_secs(1));
        assert!(!watch.is_being_written());
        drop(beside);
    }

    /// It was seen by the slow look only.
    #[tokio::test]
    async fn a_file_behind_a_link_is_seen_to_change_at_once_also_when_the_link_moves() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = folder.path().join("fleet.yaml");
        let target = |name: &str| elsewhere.path().join(name).join("fleet.yaml");
        for name in ["one", "two"] {
            std::fs::create_dir(elsewhere.path().join(name)).unwrap();
            std::fs::write(target(name), name).unwrap();
        }
        std::os::unix::fs::symlink(target("one"), &link).unwrap();
        let mut watch = FileWatch::new(std::slice::from_ref(&link));
        std::fs::write(target("one"), "changed").unwrap();
        assert!(told(&mut watch).await < LOOK / 2);
        let new = folder.path().join("new");
        std::os::unix::fs::symlink(target("two"), &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
        assert!(told(&mut watch).await < LOOK / 2);
        std::fs::write(target("two"), "changed").unwrap();
        assert!(told(&mut watch).await < LOOK / 2);
    }

    /// An edit that came while the fleet was busy with something else was found by the slow look.
    #[tokio::test]
    async fn what_is_heard_while_nobody_waits_to_the_end_is_told_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fleet.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new(std::slice::from_ref(&file));
        std::fs::write(&file, "b").unwrap();
        while watch.heard.lock().untold.is_none() {
            tokio::task::yield_now().await;
        }
        let given_up = tokio::time::timeout(BURST / 4, watch.changed()).await;
        assert!(given_up.is_err(), "the burst is not over");
        assert!(told(&mut watch).await < LOOK / 2);
    }
}
