//! Entry points for `fuzz/`, compiled only with `--cfg fuzzing`: the code that reads Redis' replies, without
//! a Redis.

use std::{sync::LazyLock, time::Duration};

use phase6_redis::{FromRedisValue, Value};
use tokio::runtime::{Builder, Runtime};

use super::{
    invalidation_index::InvalidationIndex,
    log_record::{LogRecord, ParsedRecord, RawRecord, StreamOffset},
    lookup::{LookupReply, RawLookupReply},
    stored_response::{self, StoredResponse},
};
use crate::{Entry, Key};

/// A response read from Redis.
pub struct DecodedResponse {
    /// The response.
    pub entry: Entry,
    /// Offset in the log at the start of its fetch.
    pub log_offset: u64,
}

/// Decodes the response in a reply of `lookup.lua`.
pub fn decode_lookup_reply(reply: Value, key: &Key, now_ms: u64) -> Option<DecodedResponse> {
    let LookupReply { response, ttl, .. } = RawLookupReply::from_redis_value(reply).ok()?.into();
    let StoredResponse { entry, log_offset } =
        block_on(stored_response::decode(response?, key, ttl?, now_ms))?;
    Some(DecodedResponse { entry, log_offset: log_offset.0 })
}

/// Encodes a response whose key expires at the age `max_age`.
pub fn encode_response(entry: &Entry, log_offset: u64, max_age: Duration) -> Vec<u8> {
    block_on(stored_response::encode(entry, StreamOffset(log_offset), max_age))
}

/// Returns the name of a response in Redis.
pub fn response_name(key: &Key) -> String {
    stored_response::name(key)
}

/// Results of two checks whether a log invalidates a response; they must be equal.
#[derive(Debug)]
pub struct LogCheck {
    /// Result of the index.
    pub by_index: bool,
    /// Result of a scan of all records.
    pub by_scan: bool,
}

/// Checks if the records of a log invalidate a response that is older than all of them.
///
/// # Panics
///
/// Panics if a record does not survive a round trip through its text form.
pub fn check_log(reply: Value, entry: &Entry) -> Option<LogCheck> {
    const START: StreamOffset = StreamOffset(1);
    let records = Vec::<RawRecord>::from_redis_value(reply).ok()?;
    let mut index = InvalidationIndex::default();
    index.reset(START);
    let mut by_scan = false;
    for raw in &records {
        let Some(ParsedRecord { offset, record, .. }) = ParsedRecord::parse(raw) else { continue };
        assert!(offset.to_string().parse() == Ok(offset), "an offset survives a round trip");
        assert_eq!(LogRecord::from(record.to_string().as_str()), record, "a record survives a round trip");
        // As the log reader does: offsets never step back.
        let offset = offset.max(index.offset());
        by_scan |= offset > START && record.invalidation().is_some_and(|it| it.matches(entry));
        index.advance(offset, record.invalidation().cloned());
    }
    Some(LogCheck { by_index: index.is_invalidated_since(START, entry), by_scan })
}

/// Runs a future to its end; large bodies are compressed on the blocking pool.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        Builder::new_current_thread().build().expect("a runtime without drivers can be built")
    });
    RUNTIME.block_on(work)
}
