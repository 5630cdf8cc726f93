//! An answer as bytes under a key, and what the log says as text.
//!
//! ```text
//! 1 byte: format | 4 bytes: length of the head, big-endian | head: JSON | body, packed if it is large
//! ```

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::history::Place;
use crate::{Entry, Invalidation, Key, duty::Word, meta::Meta, packed::pack};

const FORMAT: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Head {
    tenant: Box<str>,
    uri: Box<str>,
    /// Where the log was when its making began.
    place: u64,
    /// Its age when its time in Redis is over, in milliseconds.
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

pub(super) async fn write(entry: &Entry, place: Place, kept: Duration) -> Vec<u8> {
    let body = pack(entry).await;
    let head = Head {
        tenant: entry.key.tenant.clone(),
        uri: entry.key.uri.clone(),
        place: place.0,
        kept_ms: kept.as_millis() as u64,
        meta: Meta::of(entry, &body),
    };
    let head = serde_json::to_vec(&head).expect("plain data");
    let mut bytes = Vec::with_capacity(5 + head.len() + body.bytes.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&body.bytes);
    bytes
}

/// An answer that will be there for `left_ms`, with the place at which its making began. None: these bytes
/// are no answer under this key.
pub(super) async fn read(bytes: Vec<u8>, key: &Key, left_ms: u64, now_ms: u64) -> Option<(Entry, Place)> {
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
    let entry = head.meta.into_entry(key.clone(), now_ms.saturating_sub(age_ms), body).await?;
    Some((entry, Place(head.place)))
}

/// One entry of the log as Redis gives it: its id and its fields.
pub(super) type Logged = (String, Vec<String>);

/// What an entry of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The log begins.
    Begins,
    Forgotten(Invalidation),
    /// The replica that made the answer of this name is done.
    Over(String, Word),
}

impl Said {
    /// What is forgotten by it.
    pub(super) fn forgotten(&self) -> Option<&Invalidation> {
        match self {
            Self::Forgotten(invalidation) => Some(invalidation),
            Self::Begins | Self::Over(..) => None,
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begins => f.write_str("begins"),
            Self::Forgotten(Invalidation::All) => f.write_str("all"),
            Self::Forgotten(Invalidation::Path(path)) => write!(f, "path {path}"),
            Self::Forgotten(Invalidation::Prefix(prefix)) => write!(f, "prefix {prefix}"),
            Self::Forgotten(Invalidation::Tag(tag)) => write!(f, "tag {tag}"),
            Self::Over(name, Word::Landed) => write!(f, "landed {name}"),
            Self::Over(name, Word::Lost) => write!(f, "lost {name}"),
        }
    }
}

impl From<&str> for Said {
    /// What is not understood was written by a newer program, and may mean anything.
    fn from(text: &str) -> Self {
        match text.split_once(' ') {
            None if text == "begins" => Self::Begins,
            Some(("path", path)) => Self::Forgotten(Invalidation::Path(path.to_owned())),
            Some(("prefix", prefix)) => Self::Forgotten(Invalidation::Prefix(prefix.to_owned())),
            Some(("tag", tag)) => Self::Forgotten(Invalidation::Tag(tag.to_owned())),
            Some(("landed", name)) => Self::Over(name.to_owned(), Word::Landed),
            Some(("lost", name)) => Self::Over(name.to_owned(), Word::Lost),
            _ => Self::Forgotten(Invalidation::All),
        }
    }
}

/// Its place, who said it, and what. None: it is no entry of a log.
pub(super) fn logged((id, fields): &Logged) -> Option<(Place, &str, Said)> {
    let place = id.parse().ok()?;
    Some(match fields.as_slice() {
        [_, origin, _, what] => (place, origin, Said::from(what.as_str())),
        _ => (place, "", Said::Forgotten(Invalidation::All)),
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;

    #[tokio::test]
    async fn an_answer_is_read_as_it_was_written_and_under_no_other_key() {
        let vary = vec![
            (http::header::ACCEPT, Some("text/html".parse().unwrap())),
            (http::header::ACCEPT_LANGUAGE, None),
        ];
        let entry = Entry { body: "body".into(), vary, ..entry("/a?b", &["red"]) };
        let bytes = write(&entry, Place(7), Duration::from_mins(1)).await;
        let (again, place) = read(bytes.clone(), &entry.key, 59_000, 100_000).await.unwrap();
        assert_eq!((&*again.body, place, again.made_at_ms), (&b"body"[..], Place(7), 99_000));
        assert_eq!((again.tags, again.status, again.headers), (entry.tags, entry.status, entry.headers));
        assert_eq!(again.vary, entry.vary);
        let other = Key { tenant: "bob".into(), uri: entry.key.uri.clone() };
        assert!(read(bytes, &other, 59_000, 100_000).await.is_none(), "whose hash happens to be the same");
        assert_ne!(name(&entry.key), name(&other));
    }

    proptest! {
        #[test]
        fn bytes_of_others_are_no_answer(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let key = Key { tenant: "".into(), uri: "/".into() };
            prop_assert!(matches!(read(bytes, &key, 1, 1).now_or_never(), Some(None)));
        }

        #[test]
        fn what_is_said_is_read_as_it_was_written(text in ".{0,9}") {
            for said in [
                Said::Begins,
                Said::Forgotten(Invalidation::All),
                Said::Forgotten(Invalidation::Path(text.clone())),
                Said::Forgotten(Invalidation::Prefix(text.clone())),
                Said::Forgotten(Invalidation::Tag(text.clone())),
                Said::Over(text.clone(), Word::Landed),
                Said::Over(text.clone(), Word::Lost),
            ] {
                prop_assert_eq!(Said::from(said.to_string().as_str()), said);
            }
        }
    }
}
