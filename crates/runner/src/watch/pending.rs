//! Unreported events, and writers that may not have finished. Pure, with an explicit clock.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::time::Instant;

use super::files::WatchedFiles;

/// Silence after which a burst of events is over.
pub(super) const BURST: Duration = Duration::from_millis(20);
/// Silence after which a file that was not closed is reported. Only Linux reports when a file is closed.
pub(super) const UNCLOSED: Duration =
    Duration::from_millis(if cfg!(target_os = "linux") { 2_000 } else { 150 });
/// Silence after which a writer that did not close its file counts as finished.
pub(super) const ABANDONED: Duration = Duration::from_secs(if cfg!(target_os = "linux") { 30 } else { 2 });
/// Longest time from the first event of a burst to its report.
const MAX_BURST: Duration = Duration::from_secs(5);

/// Events and writers of the watched files.
#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    pub(super) files: WatchedFiles,
    /// Files that were written and not closed since, with the time of the last write.
    writing: BTreeMap<PathBuf, Instant>,
    unreported: Option<Burst>,
}

/// Events since the last report.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    last: Instant,
    /// True if the last event left its file complete.
    is_complete: bool,
}

impl PendingChanges {
    /// Adds an event. Returns false if it is not about a watched file.
    pub(super) fn add(&mut self, event: &Event, now: Instant) -> bool {
        let Some(completes) = completes(event).filter(|_| self.files.include_any(&event.paths)) else {
            return false;
        };
        for path in &event.paths {
            // A link is complete when it exists.
            if !completes && !path.is_symlink() && self.files.contains(path) {
                self.writing.insert(path.clone(), now);
            } else {
                self.writing.remove(path);
            }
        }
        let is_complete = event.paths.iter().all(|path| !self.writing.contains_key(path));
        let first = self.unreported.map_or(now, |burst| burst.first);
        self.unreported = Some(Burst { first, last: now, is_complete });
        true
    }

    /// Adds a write that no event has reported.
    pub(super) fn add_write(&mut self, path: PathBuf, now: Instant) {
        self.writing.insert(path, now);
    }

    /// Returns the time of the next report if no event arrives before.
    pub(super) fn due(&self) -> Option<Instant> {
        let burst = self.unreported.map(|burst| {
            let silence = if burst.is_complete { BURST } else { UNCLOSED };
            (burst.last + silence).min(burst.first + MAX_BURST)
        });
        burst.into_iter().chain(self.writing.values().map(|last| *last + ABANDONED)).min()
    }

    /// Returns true if a report is due; its events then count as reported.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.writing.retain(|_, last| *last + ABANDONED > now);
            self.unreported = None;
        }
        is_due
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.unreported.is_some()
    }

    pub(super) fn is_being_written(&self) -> bool {
        !self.writing.is_empty()
    }
}

/// True if an event leaves its file complete (closed, renamed, removed), false if somebody writes it, `None` if
/// the event says nothing about content.
fn completes(event: &Event) -> Option<bool> {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => Some(true),
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) | EventKind::Create(_) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_never_closes_its_file_counts_as_finished_after_a_long_silence() {
        let file = PathBuf::from("/folder/fleet.yaml");
        let files = WatchedFiles::of_file(file.clone());
        let mut pending = PendingChanges { files, ..PendingChanges::default() };
        let write = Event::new(EventKind::Modify(ModifyKind::Any)).add_path(file);
        let start = Instant::now();
        assert!(pending.add(&write, start));
        assert!(!pending.take(start + BURST));
        assert!(pending.take(start + UNCLOSED));
        assert!(pending.is_being_written(), "reported, and not complete");
        let again = start + Duration::from_secs(1);
        pending.add(&write, again);
        assert!(pending.take(again + UNCLOSED));
        let end = again + ABANDONED;
        assert_eq!(pending.due(), Some(end));
        assert!(!pending.take(end - BURST));
        assert!(pending.take(end), "reported once more");
        assert!(!pending.is_being_written());
        assert_eq!(pending.due(), None);
    }
}
