//! An answer as bytes under a key, and what was forgotten as text.
//!
//! ```text
//! 1 byte: format | 4 bytes: length of the head, big-endian | head: JSON | body
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::history::Place;
use crate::{Entry, Invalidation, Key, meta::Meta};

const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    tenant: Box<str>,
    uri: Box<str>,
    /// Where the log was when its making began.
    place: u64,
    /// For how long it was stored, in milliseconds.
    kept_ms: u64,
    meta: Meta,
}

/// What an answer is called: tells neither whose it is nor what was asked.
pub(super) fn name(key: &Key) -> String {
    let mut hasher = Sha256::new();
    hasher.update((key.tenant.len() as u64).to_be_bytes());
    hasher.update(key.tenant.as_bytes());
    hasher.update(key.uri.as_bytes());
    let digest = hasher.finalize();
    let half = u128::from_be_bytes(digest[..16].try_into().expect("sixteen of 32 bytes"));
    format!("{half:032x}")
}

pub(super) fn write(entry: &Entry, place: Place, kept: Duration) -> Vec<u8> {
    let head = Head {
        tenant: entry.key.tenant.clone(),
        uri: entry.key.uri.clone(),
        place: place.0,
        kept_ms: kept.as_millis() as u64,
        meta: Meta::of(entry),
    };
    let head = serde_json::to_vec(&head).expect("plain data");
    let mut bytes = Vec::with_capacity(5 + head.len() + entry.body.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&entry.body);
    bytes
}

/// An answer that will be there for `left_ms`, with the place at which its making began. None: these bytes
/// are no answer under this key.
pub(super) fn read(bytes: Vec<u8>, key: &Key, left_ms: u64, now_ms: u64) -> Option<(Entry, Place)> {
    let bytes = bytes::Bytes::from(bytes);
    let (&format, rest) = bytes.split_first()?;
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let head: Head = serde_json::from_slice(rest.get(4..)?.get(..length)?).ok()?;
    if format != FORMAT || head.tenant != key.tenant || head.uri != key.uri {
        return None;
    }
    // By Redis' clock: those of replicas may differ.
    let age_ms = head.kept_ms.saturating_sub(left_ms);
    let body = bytes.slice(5 + length..);
    let entry = head.meta.into_entry(key.clone(), now_ms.saturating_sub(age_ms), body)?;
    Some((entry, Place(head.place)))
}

/// One entry of the log as Redis gives it: its id and its fields.
pub(super) type Logged = (String, Vec<String>);

/// Its place, who said it, and what was forgotten; none: nothing.
pub(super) fn logged((id, fields): &Logged) -> Option<(Place, &str, Option<Invalidation>)> {
    let place = id.parse().ok()?;
    Some(match fields.as_slice() {
        [_, origin, _, what] => (place, origin, forgotten(what)),
        _ => (place, "", Some(Invalidation::All)),
    })
}

pub(super) fn text(invalidation: &Invalidation) -> String {
    match invalidation {
        Invalidation::All => "all".to_owned(),
        Invalidation::Path(path) => format!("path {path}"),
        Invalidation::Prefix(prefix) => format!("prefix {prefix}"),
        Invalidation::Tag(tag) => format!("tag {tag}"),
    }
}

/// What a log says that begins.
pub(super) const BEGINS: &str = "begins";

/// What is not understood was written by a newer program, and may mean anything.
fn forgotten(text: &str) -> Option<Invalidation> {
    match text.split_once(' ') {
        None if text == BEGINS => None,
        Some(("path", path)) => Some(Invalidation::Path(path.to_owned())),
        Some(("prefix", prefix)) => Some(Invalidation::Prefix(prefix.to_owned())),
        Some(("tag", tag)) => Some(Invalidation::Tag(tag.to_owned())),
        _ => Some(Invalidation::All),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;

    #[test]
    fn an_answer_is_read_as_it_was_written_and_under_no_other_key() {
        let entry = Entry { body: "body".into(), ..entry("/a?b", &["red"]) };
        let bytes = write(&entry, Place(7), Duration::from_mins(1));
        let (again, place) = read(bytes.clone(), &entry.key, 59_000, 100_000).unwrap();
        assert_eq!((&*again.body, place, again.stored_at_ms), (&b"body"[..], Place(7), 99_000));
        assert_eq!((again.tags, again.status, again.headers), (entry.tags, entry.status, entry.headers));
        let other = Key { tenant: "bob".into(), uri: entry.key.uri.clone() };
        assert!(read(bytes, &other, 59_000, 100_000).is_none(), "whose hash happens to be the same");
        assert_ne!(name(&entry.key), name(&other));
    }

    proptest! {
        #[test]
        fn bytes_of_others_are_no_answer(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let key = Key { tenant: "".into(), uri: "/".into() };
            prop_assert!(read(bytes, &key, 1, 1).is_none());
        }

        #[test]
        fn what_was_forgotten_is_read_as_it_was_written(text_of in ".{0,9}") {
            for invalidation in [
                Invalidation::All,
                Invalidation::Path(text_of.clone()),
                Invalidation::Prefix(text_of.clone()),
                Invalidation::Tag(text_of.clone()),
            ] {
                prop_assert_eq!(forgotten(&text(&invalidation)), Some(invalidation));
            }
        }
    }
}
