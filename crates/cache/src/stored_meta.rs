//! An entry as it is written outside the memory of the process.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::{
    Entry, Key,
    packed::{Packed, unpack},
    rfc9111::Storable,
};

/// An entry without its key and body, as it is written.
#[derive(Serialize, Deserialize)]
pub(crate) struct Meta {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// What it was chosen by.
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
    /// The length of its body, if that is packed.
    unpacked: Option<u64>,
    #[serde(default)]
    label: Box<str>,
}

impl Meta {
    pub(crate) fn of(entry: &Entry, body: &Packed) -> Self {
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
            lifetime_ms: entry.storable.lifetime.map(millis),
            max_age_ms: entry.storable.max_age.map(millis),
            public: entry.storable.public,
            must_revalidate: entry.storable.must_revalidate,
            stale_while_revalidate_ms: entry.storable.stale_while_revalidate.map(millis),
            stale_if_error_ms: entry.storable.stale_if_error.map(millis),
            age_ms: millis(entry.storable.age),
            jitter: entry.jitter,
            tags: entry.tags.clone(),
            unpacked: body.length,
            label: entry.label.clone(),
        }
    }

    /// None: it was not written by this program.
    pub(crate) async fn into_entry(self, key: Key, made_at_ms: u64, body: Bytes) -> Option<Entry> {
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
        let body = unpack(Packed { bytes: body, length: self.unpacked }).await?;
        Some(Entry {
            key,
            vary,
            status: StatusCode::from_u16(self.status).ok()?,
            headers,
            body,
            storable: Storable {
                lifetime: self.lifetime_ms.map(Duration::from_millis),
                max_age: self.max_age_ms.map(Duration::from_millis),
                public: self.public,
                must_revalidate: self.must_revalidate,
                stale_while_revalidate: self.stale_while_revalidate_ms.map(Duration::from_millis),
                stale_if_error: self.stale_if_error_ms.map(Duration::from_millis),
                age: Duration::from_millis(self.age_ms),
                vary: names,
            },
            made_at_ms,
            jitter: self.jitter,
            tags: self.tags,
            label: self.label,
        })
    }
}
