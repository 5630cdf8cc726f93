//! What all replicas together have forgotten, as far as this one has heard. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
};

use crate::{Entry, Invalidation};

/// Names remembered; what was made before the oldest of them was forgotten is not trusted.
const REMEMBERED: usize = 10_000;

/// A place in the log: the id of a stream's entry, `MILLISECONDS-COUNTER`. The counter of one millisecond
/// stays below 65,536.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) u64);

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ms, counter) = text.split_once('-').ok_or(())?;
        let (ms, counter): (u64, u64) = (ms.parse().map_err(|_| ())?, counter.parse().map_err(|_| ())?);
        if ms >= 1 << 48 || counter >= 1 << 16 {
            return Err(());
        }
        Ok(Self((ms << 16) | counter))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Each name with the place at which it was forgotten last.
#[derive(Debug, Default)]
pub(super) struct History {
    at: Place,
    /// What was made before is not trusted.
    trusted_from: Place,
    last: HashMap<Invalidation, Place>,
    by_place: BTreeMap<Place, Invalidation>,
}

impl History {
    /// The place up to which it is known.
    pub(super) fn at(&self) -> Place {
        self.at
    }

    /// Begins anew: what was made before `place` is not trusted.
    pub(super) fn begin(&mut self, place: Place) {
        *self = Self { at: place, trusted_from: place, ..Self::default() };
    }

    /// The next of the log; none: nothing was forgotten.
    pub(super) fn push(&mut self, place: Place, forgotten: Option<Invalidation>) {
        self.at = self.at.max(place);
        let Some(forgotten) = forgotten.map(normal) else { return };
        if let Some(before) = self.last.insert(forgotten.clone(), place) {
            self.by_place.remove(&before);
        }
        self.by_place.insert(place, forgotten);
        if self.by_place.len() > REMEMBERED
            && let Some((oldest, name)) = self.by_place.pop_first()
        {
            self.last.remove(&name);
            self.trusted_from = self.trusted_from.max(oldest);
        }
    }

    /// Whether an answer whose making began at `made` may have been forgotten since.
    pub(super) fn has_forgotten(&self, made: Place, entry: &Entry) -> bool {
        made < self.trusted_from || names(entry).any(|name| self.last.get(&name).is_some_and(|at| *at > made))
    }
}

/// Prefixes mean the same with and without a slash at their end.
fn normal(invalidation: Invalidation) -> Invalidation {
    match invalidation {
        Invalidation::Prefix(prefix) => Invalidation::Prefix(prefix.trim_end_matches('/').to_owned()),
        other => other,
    }
}

/// Everything that an answer can be forgotten by.
fn names(entry: &Entry) -> impl Iterator<Item = Invalidation> {
    let path = entry.key.path();
    let above = path.match_indices('/').map(|(end, _)| Invalidation::Prefix(path[..end].to_owned()));
    let tags = entry.tags.iter().map(|tag| Invalidation::Tag(tag.to_string()));
    let itself =
        [Invalidation::All, Invalidation::Path(path.to_owned()), Invalidation::Prefix(path.to_owned())];
    itself.into_iter().chain(above.map(normal)).chain(tags)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in ["0-0", "1732480000000-7", "1732480000000-65535"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for wrong in ["", "1", "-1", "1-65536", "x-1", "1-"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
        assert!("1-9".parse::<Place>().unwrap() < "2-0".parse().unwrap());
    }

    #[test]
    fn what_was_made_before_the_oldest_name_is_not_trusted() {
        let mut history = History::default();
        for i in 1..=REMEMBERED as u64 + 5 {
            history.push(Place(i), Some(Invalidation::Tag(format!("t{i}"))));
        }
        let plain = entry("/a", &[]);
        assert!(history.has_forgotten(Place(4), &plain) && !history.has_forgotten(Place(5), &plain));
        // A name that is forgotten again and again takes one place.
        let mut history = History::default();
        for i in 1..=3 * REMEMBERED as u64 {
            history.push(Place(i), Some(Invalidation::Path("/busy".into())));
        }
        assert!(
            !history.has_forgotten(Place(1), &plain)
                && history.has_forgotten(Place(1), &entry("/busy?q", &[]))
        );
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
        fn it_says_of_each_answer_what_its_invalidations_say(
            log in proptest::collection::vec(invalidations(), 0..6),
            path in "/(a|b){0,1}(/|//a|/b){0,2}", tags in proptest::collection::vec("[rg]", 0..2), made in 0..7_u64,
        ) {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let entry = entry(&path, &tags);
            let mut history = History::default();
            for (i, invalidation) in log.iter().enumerate() {
                history.push(Place(i as u64 + 1), Some(invalidation.clone()));
            }
            let expected = log.iter().skip(made as usize).any(|invalidation| invalidation.means(&entry));
            prop_assert_eq!(history.has_forgotten(Place(made), &entry), expected);
        }
    }
}
