//! Index of the invalidations by all replicas, up to the offset that this replica has read. Pure.

use std::collections::{BTreeMap, HashMap};

use super::log_record::StreamOffset;
use crate::{Entry, Invalidation};

/// Largest number of invalidations in the index. Responses older than a dropped invalidation are not trusted.
const CAPACITY: usize = 10_000;

/// Offset of the latest occurrence of each invalidation.
#[derive(Debug, Default)]
pub(super) struct InvalidationIndex {
    offset: StreamOffset,
    /// Responses whose fetch started before this offset are not trusted.
    trusted_from: StreamOffset,
    by_invalidation: HashMap<Invalidation, StreamOffset>,
    by_offset: BTreeMap<StreamOffset, Invalidation>,
}

impl InvalidationIndex {
    /// Returns the offset up to which the log has been read.
    pub(super) fn offset(&self) -> StreamOffset {
        self.offset
    }

    /// Clears the index. Responses whose fetch started before `offset` are not trusted.
    pub(super) fn reset(&mut self, offset: StreamOffset) {
        *self = Self { offset, trusted_from: offset, ..Self::default() };
    }

    /// Advances to the next record of the log, and adds its invalidation if it has one.
    pub(super) fn advance(&mut self, offset: StreamOffset, invalidation: Option<Invalidation>) {
        self.offset = self.offset.max(offset);
        let Some(invalidation) = invalidation.map(normalize) else { return };
        if let Some(previous) = self.by_invalidation.insert(invalidation.clone(), offset) {
            self.by_offset.remove(&previous);
        }
        self.by_offset.insert(offset, invalidation);
        if self.by_offset.len() > CAPACITY
            && let Some((oldest, dropped)) = self.by_offset.pop_first()
        {
            self.by_invalidation.remove(&dropped);
            self.trusted_from = self.trusted_from.max(oldest);
        }
    }

    /// Returns true if a response whose fetch started at `since` has been invalidated since, or may have
    /// been.
    pub(super) fn is_invalidated_since(&self, since: StreamOffset, entry: &Entry) -> bool {
        since < self.trusted_from
            || matching_invalidations(entry)
                .any(|invalidation| self.by_invalidation.get(&invalidation).is_some_and(|at| *at > since))
    }
}

/// Removes slashes from the end of a prefix, which match the same responses with and without them.
fn normalize(invalidation: Invalidation) -> Invalidation {
    match invalidation {
        Invalidation::Prefix(prefix) => Invalidation::Prefix(prefix.trim_end_matches('/').to_owned()),
        other => other,
    }
}

/// Returns every normalized invalidation that matches an entry.
fn matching_invalidations(entry: &Entry) -> impl Iterator<Item = Invalidation> {
    let path = entry.key.path();
    let parents = path.match_indices('/').map(|(end, _)| Invalidation::Prefix(path[..end].to_owned()));
    let tags = entry.tags.iter().map(|tag| Invalidation::Tag(tag.to_string()));
    let own = [Invalidation::All, Invalidation::Path(path.to_owned()), Invalidation::Prefix(path.to_owned())];
    own.into_iter().chain(parents.map(normalize)).chain(tags)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;

    #[test]
    fn a_response_older_than_a_dropped_invalidation_is_not_trusted() {
        let mut index = InvalidationIndex::default();
        for i in 1..=CAPACITY as u64 + 5 {
            index.advance(StreamOffset(i), Some(Invalidation::Tag(format!("t{i}"))));
        }
        let entry = entry("/a", &[]);
        assert!(index.is_invalidated_since(StreamOffset(4), &entry));
        assert!(!index.is_invalidated_since(StreamOffset(5), &entry));
    }

    #[test]
    fn a_repeated_invalidation_takes_one_place() {
        let mut index = InvalidationIndex::default();
        for i in 1..=3 * CAPACITY as u64 {
            index.advance(StreamOffset(i), Some(Invalidation::Path("/busy".into())));
        }
        assert!(!index.is_invalidated_since(StreamOffset(1), &entry("/a", &[])));
        assert!(index.is_invalidated_since(StreamOffset(1), &entry("/busy?q", &[])));
    }

    fn invalidations() -> impl Strategy<Value = Invalidation> {
        let path = "/{0,1}(a|b){0,1}(/|//a|/b){0,2}";
        prop_oneof![
            1 => Just(Invalidation::All),
            5 => path.prop_map(Invalidation::Path),
            5 => path.prop_map(Invalidation::Prefix),
            5 => "[rg]".prop_map(Invalidation::Tag),
        ]
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_scan_of_the_log(
            log in proptest::collection::vec(invalidations(), 0..6),
            path in "/(a|b){0,1}(/|//a|/b){0,2}", tags in proptest::collection::vec("[rg]", 0..2), since in 0..7_u64,
        ) {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let entry = entry(&path, &tags);
            let mut index = InvalidationIndex::default();
            for (i, invalidation) in log.iter().enumerate() {
                index.advance(StreamOffset(i as u64 + 1), Some(invalidation.clone()));
            }
            let expected = log.iter().skip(since as usize).any(|invalidation| invalidation.matches(&entry));
            prop_assert_eq!(index.is_invalidated_since(StreamOffset(since), &entry), expected);
        }
    }
}
