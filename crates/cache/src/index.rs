//! Which answers in memory an invalidation means, found without looking at the others.
//!
//! Ordered by name, so that a path, all paths below it, or a tag is one stretch. Names only what it
//! is told of: [`Memory`](crate::memory::Memory) tells it of every answer that comes or goes.

use std::collections::BTreeSet;

use crate::{Entry, Invalidation};

/// What an answer can be called by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Path(Box<str>),
    Tag(Box<str>),
}

/// The names of all answers, each with the slot that its answer is in.
#[derive(Debug, Default)]
pub(crate) struct Index {
    names: BTreeSet<(Name, u64)>,
    answers: usize,
}

fn path(entry: &Entry) -> Name {
    Name::Path(entry.key.path().into())
}

fn tags(entry: &Entry) -> impl Iterator<Item = Name> {
    entry.tags.iter().cloned().map(Name::Tag)
}

impl Index {
    pub(crate) fn add(&mut self, slot: u64, entry: &Entry) {
        // Every answer has one path.
        if self.names.insert((path(entry), slot)) {
            self.answers += 1;
        }
        self.names.extend(tags(entry).map(|tag| (tag, slot)));
    }

    pub(crate) fn remove(&mut self, slot: u64, entry: &Entry) {
        if self.names.remove(&(path(entry), slot)) {
            self.answers -= 1;
        }
        for tag in tags(entry) {
            self.names.remove(&(tag, slot));
        }
    }

    /// Number of answers.
    pub(crate) fn len(&self) -> usize {
        self.answers
    }

    /// The slots of the answers that are meant.
    pub(crate) fn meant(&self, invalidation: &Invalidation) -> Vec<u64> {
        match invalidation {
            Invalidation::All => self.between(Name::Path("".into()), Name::Tag("".into())),
            Invalidation::Path(path) => self.called(Name::Path(path.as_str().into())),
            Invalidation::Tag(tag) => self.called(Name::Tag(tag.as_str().into())),
            Invalidation::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                // `0` is the character after `/`.
                let edge = |end: char| Name::Path(format!("{prefix}{end}").into());
                let mut slots = self.called(Name::Path(prefix.into()));
                slots.extend(self.between(edge('/'), edge('0')));
                slots
            }
        }
    }

    fn called(&self, name: Name) -> Vec<u64> {
        self.names.range((name.clone(), 0)..=(name, u64::MAX)).map(|(_, slot)| *slot).collect()
    }

    fn between(&self, from: Name, before: Name) -> Vec<u64> {
        self.names.range((from, 0)..(before, 0)).map(|(_, slot)| *slot).collect()
    }
}
