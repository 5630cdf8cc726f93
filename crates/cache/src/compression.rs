//! Large bodies at rest, in Redis and on disk, are packed; in memory none is.
//!
//! Packing and unpacking are work for the processor, so they are done where they hold up no request.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use http::header::CONTENT_ENCODING;

use crate::{Entry, fetch::LARGEST_BODY};

/// Smaller bodies stay as they are.
const LEAST: usize = 4 * 1024;

/// A body as it is kept.
pub(crate) struct Packed {
    pub(crate) bytes: Bytes,
    /// How long it is when it is unpacked; none: it is not packed.
    pub(crate) length: Option<u64>,
}

/// The body of an entry as it is to be kept: packed, if that is worth while.
pub(crate) async fn pack(entry: &Entry) -> Packed {
    let body = entry.body.clone();
    let plain = Packed { bytes: body.clone(), length: None };
    if body.len() < LEAST || entry.headers.contains_key(CONTENT_ENCODING) {
        return plain;
    }
    let length = body.len();
    let packed = tokio::task::spawn_blocking(move || {
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
        encoder.write_all(&body).and_then(|()| encoder.finish()).ok()
    });
    match packed.await {
        // An eighth less, or it is not worth unpacking.
        Ok(Some(packed)) if packed.len() <= length - length / 8 => {
            Packed { bytes: packed.into(), length: Some(length as u64) }
        }
        _ => plain,
    }
}

/// The body again. None: these bytes are none that were packed here.
pub(crate) async fn unpack(Packed { bytes, length }: Packed) -> Option<Bytes> {
    let Some(length) = length else { return Some(bytes) };
    // Whoever wrote something else there cannot make it larger than what is stored.
    if length > LARGEST_BODY {
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

    async fn packed(body: Vec<u8>) -> Packed {
        pack(&Entry { body: body.into(), ..entry("/a", &[]) }).await
    }

    #[tokio::test]
    async fn a_large_body_is_kept_packed_and_comes_back_as_it_was() {
        let body = br#"{"provider":"openai","cost":0.25},"#.repeat(3_000);
        let kept = packed(body.clone()).await;
        assert!(kept.bytes.len() * 10 < body.len(), "{} of {}", kept.bytes.len(), body.len());
        assert_eq!(unpack(kept).await.unwrap(), body);
    }

    #[tokio::test]
    async fn what_is_small_or_packed_already_stays_as_it_is() {
        let noise: Vec<u8> = (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for body in [vec![b'x'; LEAST - 1], packed(noise).await.bytes.to_vec()] {
            let kept = packed(body.clone()).await;
            assert!(kept.length.is_none() && kept.bytes == body, "{}", body.len());
        }
        let mut coded = Entry { body: vec![b'x'; 2 * LEAST].into(), ..entry("/a", &[]) };
        coded.headers.insert(CONTENT_ENCODING, "br".parse().unwrap());
        assert_eq!(pack(&coded).await.length, None);
    }

    #[tokio::test]
    async fn what_does_not_unpack_to_its_length_is_no_body() {
        let kept = packed(vec![b'x'; 100_000]).await;
        for length in [0, 99_999, 100_001, LARGEST_BODY + 1, u64::MAX] {
            let bytes = kept.bytes.clone();
            assert!(unpack(Packed { bytes, length: Some(length) }).await.is_none(), "{length}");
        }
        let torn = Packed { bytes: kept.bytes.slice(..20), length: Some(100_000) };
        assert!(unpack(torn).await.is_none());
    }
}
