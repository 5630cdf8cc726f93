//! What is to be forgotten, and the log by which a late fetch learns of it.

use std::collections::VecDeque;

use crate::Entry;

/// Invalidations remembered; a fetch that began before the oldest of them is not stored.
const REMEMBERED: usize = 1024;

/// What is to be forgotten, for every tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Invalidation {
    /// Answers for this path, with any query.
    Path(String),
    /// Answers for this path and all below it, by whole segments.
    Prefix(String),
    /// Answers that carry this tag (`Surrogate-Key`).
    Tag(String),
    /// All answers.
    All,
}

#[cfg(test)]
thread_local! {
    /// How many answers this thread has held against an invalidation.
    pub(crate) static HELD_AGAINST: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Invalidation {
    /// Whether it means an answer.
    pub fn means(&self, entry: &Entry) -> bool {
        #[cfg(test)]
        HELD_AGAINST.set(HELD_AGAINST.get() + 1);
        let path = entry.key.path();
        match self {
            Self::All => true,
            Self::Path(wanted) => path == wanted,
            Self::Tag(tag) => entry.tags.iter().any(|held| **held == **tag),
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// The newest invalidations, numbered.
#[derive(Debug, Default)]
pub(crate) struct Log {
    next: u64,
    newest: VecDeque<Invalidation>,
}

impl Log {
    /// The number that the next invalidation will have.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn push(&mut self, invalidation: Invalidation) {
        if self.newest.len() == REMEMBERED {
            self.newest.pop_front();
        }
        self.newest.push_back(invalidation);
        self.next += 1;
    }

    /// Whether an entry whose making began at `since` may have been meant by a later invalidation.
    pub(crate) fn hit_since(&self, since: u64, entry: &Entry) -> bool {
        let oldest = self.next - self.newest.len() as u64;
        if since < oldest {
            return true;
        }
        self.newest.iter().skip((since - oldest) as usize).any(|invalidation| invalidation.means(entry))
    }
}
