//! Invalidations, and the record of recent ones that tells a fetch whether its response is outdated on
//! arrival.

use std::collections::VecDeque;

use crate::Entry;

/// Number of invalidations remembered. A response whose fetch began before the oldest of them is not stored.
const REMEMBERED: usize = 1024;

/// Set of stored responses to make unusable, across all tenants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Invalidation {
    /// Responses for this path, with any query.
    Path(String),
    /// Responses for this path and all paths below it, by whole segments.
    Prefix(String),
    /// Responses that carry this tag (`Surrogate-Key`).
    Tag(String),
    /// All responses.
    All,
}

#[cfg(test)]
thread_local! {
    /// Number of calls of [`Invalidation::matches`] on this thread.
    pub(crate) static MATCH_CALLS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Invalidation {
    /// Returns true if the invalidation covers an entry.
    pub fn matches(&self, entry: &Entry) -> bool {
        #[cfg(test)]
        MATCH_CALLS.set(MATCH_CALLS.get() + 1);
        let path = entry.key.path();
        match self {
            Self::All => true,
            Self::Path(invalidated) => path == invalidated,
            Self::Tag(tag) => entry.tags.iter().any(|entry_tag| **entry_tag == **tag),
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// Most recent invalidations of this process, numbered in sequence.
#[derive(Debug, Default)]
pub(crate) struct RecentInvalidations {
    next_sequence: u64,
    newest: VecDeque<Invalidation>,
}

impl RecentInvalidations {
    /// Returns the sequence number of the next invalidation.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn push(&mut self, invalidation: Invalidation) {
        if self.newest.len() == REMEMBERED {
            self.newest.pop_front();
        }
        self.newest.push_back(invalidation);
        self.next_sequence += 1;
    }

    /// Returns true if an invalidation numbered `since` or higher matches the entry, or may have: of those
    /// older than the record every one counts as a match.
    pub(crate) fn matches_since(&self, since: u64, entry: &Entry) -> bool {
        let oldest = self.next_sequence - self.newest.len() as u64;
        if since < oldest {
            return true;
        }
        self.newest.iter().skip((since - oldest) as usize).any(|invalidation| invalidation.matches(entry))
    }
}
