//! Compression of large bodies at rest, in Redis and on disk. Bodies in memory are not compressed.
//!
//! Both directions run on the blocking pool: they are CPU work and must not hold up requests.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use http::header::CONTENT_ENCODING;

use crate::{Entry, fetch::MAX_BODY};

/// Smallest body, in bytes, that is compressed.
const MIN_COMPRESSED: usize = 4 * 1024;

/// A body as it is stored outside of memory.
pub(crate) struct StoredBody {
    pub(crate) bytes: Bytes,
    /// Length after decompression, in bytes; `None` if the body is not compressed.
    pub(crate) uncompressed_length: Option<u64>,
}

/// Returns the body of an entry as it is to be stored: compressed, if that saves enough.
pub(crate) async fn compress(entry: &Entry) -> StoredBody {
    let body = entry.body.clone();
    let plain = StoredBody { bytes: body.clone(), uncompressed_length: None };
    if body.len() < MIN_COMPRESSED || entry.headers.contains_key(CONTENT_ENCODING) {
        return plain;
    }
    let length = body.len();
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
        encoder.write_all(&body).and_then(|()| encoder.finish()).ok()
    });
    match compressed.await {
        // Less than an eighth saved is not worth the decompression.
        Ok(Some(compressed)) if compressed.len() <= length - length / 8 => {
            StoredBody { bytes: compressed.into(), uncompressed_length: Some(length as u64) }
        }
        _ => plain,
    }
}

/// Returns the original body; `None` if these bytes do not decompress to the stated length.
pub(crate) async fn decompress(StoredBody { bytes, uncompressed_length }: StoredBody) -> Option<Bytes> {
    let Some(length) = uncompressed_length else { return Some(bytes) };
    // Foreign bytes must not decompress to more than the largest body that is ever stored.
    if length > MAX_BODY {
        return None;
    }
    let body = tokio::task::spawn_blocking(move || {
        let mut body = Vec::with_capacity(length as usize);
        ZlibDecoder::new(&*bytes).take(length + 1).read_to_end(&mut body).ok()?;
        (body.len() as u64 == length).then_some(body)
    });
    body.await.ok()?.map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;

    async fn compress_bytes(body: Vec<u8>) -> StoredBody {
        compress(&Entry { body: body.into(), ..entry("/a", &[]) }).await
    }

    #[tokio::test]
    async fn a_large_body_is_stored_compressed_and_restored_unchanged() {
        let body = br#"{"provider":"openai","cost":0.25},"#.repeat(3_000);
        let stored = compress_bytes(body.clone()).await;
        assert!(stored.bytes.len() * 10 < body.len(), "{} of {}", stored.bytes.len(), body.len());
        assert_eq!(decompress(stored).await.unwrap(), body);
    }

    #[tokio::test]
    async fn small_incompressible_and_encoded_bodies_are_stored_unchanged() {
        let noise: Vec<u8> = (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for body in [vec![b'x'; MIN_COMPRESSED - 1], compress_bytes(noise).await.bytes.to_vec()] {
            let stored = compress_bytes(body.clone()).await;
            assert!(stored.uncompressed_length.is_none() && stored.bytes == body, "{}", body.len());
        }
        let mut encoded = Entry { body: vec![b'x'; 2 * MIN_COMPRESSED].into(), ..entry("/a", &[]) };
        encoded.headers.insert(CONTENT_ENCODING, "br".parse().unwrap());
        assert_eq!(compress(&encoded).await.uncompressed_length, None);
    }

    #[tokio::test]
    async fn bytes_that_do_not_decompress_to_the_stated_length_are_rejected() {
        let stored = compress_bytes(vec![b'x'; 100_000]).await;
        for length in [0, 99_999, 100_001, MAX_BODY + 1, u64::MAX] {
            let body = StoredBody { bytes: stored.bytes.clone(), uncompressed_length: Some(length) };
            assert!(decompress(body).await.is_none(), "{length}");
        }
        let truncated = StoredBody { bytes: stored.bytes.slice(..20), uncompressed_length: Some(100_000) };
        assert!(decompress(truncated).await.is_none());
    }
}
