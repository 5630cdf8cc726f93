//! Index of the entries in memory by path and tag, so that an invalidation visits only the entries it
//! matches.
//!
//! Ordered by name: a path, all paths below it, or a tag is one contiguous range. Knows only what it is
//! given; [`Memory`](crate::memory::Memory) adds and removes every entry as it comes and goes.

use std::collections::BTreeSet;

use crate::{Entry, Invalidation};

/// Name under which an entry can be invalidated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Path(Box<str>),
    Tag(Box<str>),
}

/// Names of all entries, each with the hash of the slot that holds the entry.
#[derive(Debug, Default)]
pub(crate) struct Index {
    names: BTreeSet<(Name, u64)>,
    entries: usize,
}

fn path(entry: &Entry) -> Name {
    Name::Path(entry.key.path().into())
}

fn tags(entry: &Entry) -> impl Iterator<Item = Name> {
    entry.tags.iter().cloned().map(Name::Tag)
}

impl Index {
    pub(crate) fn add(&mut self, slot: u64, entry: &Entry) {
        // Every entry has exactly one path, so paths count the entries.
        if self.names.insert((path(entry), slot)) {
            self.entries += 1;
        }
        self.names.extend(tags(entry).map(|tag| (tag, slot)));
    }

    pub(crate) fn remove(&mut self, slot: u64, entry: &Entry) {
        if self.names.remove(&(path(entry), slot)) {
            self.entries -= 1;
        }
        for tag in tags(entry) {
            self.names.remove(&(tag, slot));
        }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Returns the slots of the entries that an invalidation matches.
    pub(crate) fn matching(&self, invalidation: &Invalidation) -> Vec<u64> {
        match invalidation {
            Invalidation::All => self.range(Name::Path("".into()), Name::Tag("".into())),
            Invalidation::Path(path) => self.named(Name::Path(path.as_str().into())),
            Invalidation::Tag(tag) => self.named(Name::Tag(tag.as_str().into())),
            Invalidation::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                // `0` is the character after `/`.
                let bound = |end: char| Name::Path(format!("{prefix}{end}").into());
                let mut slots = self.named(Name::Path(prefix.into()));
                slots.extend(self.range(bound('/'), bound('0')));
                slots
            }
        }
    }

    fn named(&self, name: Name) -> Vec<u64> {
        self.names.range((name.clone(), 0)..=(name, u64::MAX)).map(|(_, slot)| *slot).collect()
    }

    /// Returns the slots of all names from `start` up to but not including `end`.
    fn range(&self, start: Name, end: Name) -> Vec<u64> {
        self.names.range((start, 0)..(end, 0)).map(|(_, slot)| *slot).collect()
    }
}
