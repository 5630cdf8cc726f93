//! Binary form of a response in Redis, and the name of its key.
//!
//! ```text
//! 1 byte: format version | 4 bytes: length of the head, big-endian | head: JSON | body, possibly compressed
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::log_record::StreamOffset;
use crate::{Entry, Key, compression::compress, stored_meta::StoredMeta};

const FORMAT_VERSION: u8 = 3;

/// Head of a stored response. The serialized field names are the storage format.
#[derive(Serialize, Deserialize)]
struct Head {
    tenant: Box<str>,
    uri: Box<str>,
    /// Offset in the log at the start of the fetch.
    log_offset: u64,
    /// Age of the response at which its key expires, in milliseconds.
    max_age_ms: u64,
    meta: StoredMeta,
}

/// Returns the name of a response in Redis: a hash that reveals neither tenant nor path.
pub(super) fn name(key: &Key) -> String {
    let mut hasher = Sha256::new();
    hasher.update((key.tenant.len() as u64).to_be_bytes());
    hasher.update(key.tenant.as_bytes());
    hasher.update(key.uri.as_bytes());
    let digest = hasher.finalize();
    let half = u128::from_be_bytes(digest[..16].try_into().expect("sixteen of 32 bytes"));
    format!("{half:032x}")
}

/// Encodes a response whose key expires at the age `max_age`.
pub(super) async fn encode(entry: &Entry, log_offset: StreamOffset, max_age: Duration) -> Vec<u8> {
    let body = compress(entry).await;
    let head = Head {
        tenant: entry.key.tenant.clone(),
        uri: entry.key.uri.clone(),
        log_offset: log_offset.0,
        max_age_ms: max_age.as_millis() as u64,
        meta: StoredMeta::new(entry, &body),
    };
    let head = serde_json::to_vec(&head).expect("plain data serializes");
    let mut bytes = Vec::with_capacity(5 + head.len() + body.bytes.len());
    bytes.push(FORMAT_VERSION);
    bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&body.bytes);
    bytes
}

/// A response read from Redis.
#[derive(Debug)]
pub(super) struct StoredResponse {
    pub(super) entry: Entry,
    /// Offset in the log at the start of the fetch.
    pub(super) log_offset: StreamOffset,
}

/// Decodes a response whose key expires after `ttl`. `None` if the bytes are not a response
/// stored under this key.
pub(super) async fn decode(bytes: Vec<u8>, key: &Key, ttl: Duration, now_ms: u64) -> Option<StoredResponse> {
    let bytes = bytes::Bytes::from(bytes);
    let (&format, rest) = bytes.split_first()?;
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let head: Head = serde_json::from_slice(rest.get(4..)?.get(..length)?).ok()?;
    if format != FORMAT_VERSION || head.tenant != key.tenant || head.uri != key.uri {
        return None;
    }
    // The age follows from Redis' clock: the clocks of the replicas may differ.
    let age_ms = head.max_age_ms.saturating_sub(ttl.as_millis() as u64);
    let body = bytes.slice(5 + length..);
    let entry = head.meta.into_entry(key.clone(), now_ms.saturating_sub(age_ms), body).await?;
    Some(StoredResponse { entry, log_offset: StreamOffset(head.log_offset) })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;

    #[tokio::test]
    async fn a_response_survives_a_round_trip_and_is_rejected_under_another_key() {
        let vary = vec![
            (http::header::ACCEPT, Some("text/html".parse().unwrap())),
            (http::header::ACCEPT_LANGUAGE, None),
        ];
        let entry = Entry { body: "body".into(), vary, ..entry("/a?b", &["red"]) };
        let bytes = encode(&entry, StreamOffset(7), Duration::from_mins(1)).await;
        let StoredResponse { entry: decoded, log_offset } =
            decode(bytes.clone(), &entry.key, Duration::from_secs(59), 100_000).await.unwrap();
        assert_eq!(
            (&*decoded.body, log_offset, decoded.fetch_started_at_ms),
            (&b"body"[..], StreamOffset(7), 99_000)
        );
        assert_eq!(
            (decoded.tags, decoded.status, decoded.headers),
            (entry.tags, entry.status, entry.headers)
        );
        assert_eq!(decoded.vary, entry.vary);
        let other = Key { tenant: "bob".into(), uri: entry.key.uri.clone() };
        assert!(
            decode(bytes, &other, Duration::from_secs(59), 100_000).await.is_none(),
            "as if the hashes collided"
        );
        assert_ne!(name(&entry.key), name(&other));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_not_a_response(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let key = Key { tenant: "".into(), uri: "/".into() };
            prop_assert!(matches!(decode(bytes, &key, Duration::from_millis(1), 1).now_or_never(), Some(None)));
        }
    }
}
