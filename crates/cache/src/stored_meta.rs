//! Serialized form of an entry, shared by the levels in Redis and on disk.
//!
//! The field names are the storage format: a change makes stored entries unreadable.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::{
    Entry, Key,
    compression::{StoredBody, decompress},
    rfc9111::ResponseDirectives,
};

/// An entry without its key and body.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredMeta {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// Request headers that selected the response, with their values.
    vary: Vec<(String, Option<Vec<u8>>)>,
    lifetime_ms: Option<u64>,
    max_age_ms: Option<u64>,
    public: bool,
    must_revalidate: bool,
    stale_while_revalidate_ms: Option<u64>,
    stale_if_error_ms: Option<u64>,
    age_ms: u64,
    jitter: f64,
    tags: Vec<Box<str>>,
    /// Length of the body after decompression, in bytes, if it is compressed.
    #[serde(rename = "unpacked")]
    uncompressed_length: Option<u64>,
    #[serde(default)]
    label: Box<str>,
}

impl StoredMeta {
    pub(crate) fn new(entry: &Entry, body: &StoredBody) -> Self {
        let millis = |duration: Duration| duration.as_millis() as u64;
        Self {
            status: entry.status.as_u16(),
            headers: entry
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect(),
            vary: entry
                .vary
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), value.as_ref().map(|value| value.as_bytes().to_vec()))
                })
                .collect(),
            lifetime_ms: entry.directives.lifetime.map(millis),
            max_age_ms: entry.directives.max_age.map(millis),
            public: entry.directives.public,
            must_revalidate: entry.directives.must_revalidate,
            stale_while_revalidate_ms: entry.directives.stale_while_revalidate.map(millis),
            stale_if_error_ms: entry.directives.stale_if_error.map(millis),
            age_ms: millis(entry.directives.received_age),
            jitter: entry.jitter,
            tags: entry.tags.clone(),
            uncompressed_length: body.uncompressed_length,
            label: entry.label.clone(),
        }
    }

    /// Restores the entry; `None` if a field or the body is invalid.
    pub(crate) async fn into_entry(self, key: Key, fetch_started_at_ms: u64, body: Bytes) -> Option<Entry> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        let mut vary = Vec::with_capacity(self.vary.len());
        for (name, value) in &self.vary {
            let value = value.as_deref().map(HeaderValue::from_bytes).transpose().ok()?;
            vary.push((name.parse::<HeaderName>().ok()?, value));
        }
        let names = vary.iter().map(|(name, _)| name.clone()).collect();
        let body =
            decompress(StoredBody { bytes: body, uncompressed_length: self.uncompressed_length }).await?;
        Some(Entry {
            key,
            vary,
            status: StatusCode::from_u16(self.status).ok()?,
            headers,
            body,
            directives: ResponseDirectives {
                lifetime: self.lifetime_ms.map(Duration::from_millis),
                max_age: self.max_age_ms.map(Duration::from_millis),
                public: self.public,
                must_revalidate: self.must_revalidate,
                stale_while_revalidate: self.stale_while_revalidate_ms.map(Duration::from_millis),
                stale_if_error: self.stale_if_error_ms.map(Duration::from_millis),
                received_age: Duration::from_millis(self.age_ms),
                vary: names,
            },
            fetch_started_at_ms,
            jitter: self.jitter,
            tags: self.tags,
            label: self.label,
        })
    }
}
