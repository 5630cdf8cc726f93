//! Decoding of a streamed answer: bytes of a response body into chunks.
//!
//! Guarantees that a stream ends: after its end marker, on the first error, after 15 seconds of
//! silence, or when its body exceeds 16 MiB.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::{
    CallError,
    sse::EventParser,
    wire::{Chunk, ReadError, WireFormat},
};
use crate::model::ProviderId;

/// Maximum silence within a stream.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// Maximum size of a stream, in bytes. Each token comes in a separate event.
const MAX_STREAM_BYTES: usize = 16 * 1024 * 1024;

/// Chunks of a streamed answer. Ends after [`Chunk::End`] or an error.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<Chunk, CallError>> + Send>>;

/// Decoder of one response body.
struct Decoder<S> {
    provider: ProviderId,
    format: WireFormat,
    body: S,
    parser: EventParser,
    received_bytes: usize,
    ready: VecDeque<Result<Chunk, CallError>>,
    is_done: bool,
}

/// Decodes the body of a streamed response.
pub(super) fn decode<S>(provider: ProviderId, format: WireFormat, body: S) -> ChunkStream
where
    S: Stream<Item = reqwest::Result<Bytes>> + Send + Unpin + 'static,
{
    let decoder = Decoder {
        provider,
        format,
        body,
        parser: EventParser::default(),
        received_bytes: 0,
        ready: VecDeque::new(),
        is_done: false,
    };
    Box::pin(futures_util::stream::unfold(decoder, |mut decoder| async {
        let chunk = decoder.next().await?;
        Some((chunk, decoder))
    }))
}

impl<S> Decoder<S>
where
    S: Stream<Item = reqwest::Result<Bytes>> + Unpin,
{
    async fn next(&mut self) -> Option<Result<Chunk, CallError>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                if matches!(chunk, Err(_) | Ok(Chunk::End)) {
                    self.is_done = true;
                    self.ready.clear();
                }
                return Some(chunk);
            }
            if self.is_done {
                return None;
            }
            match tokio::time::timeout(SILENCE_LIMIT, self.body.next()).await {
                Err(_) => self.ready.push_back(Err(CallError::TooSlow)),
                Ok(Some(Err(_))) => self.ready.push_back(Err(CallError::Broken)),
                // The end of the body completes the answer only in a format without an end event.
                Ok(None) if self.format.has_end_event() => self.ready.push_back(Err(CallError::Broken)),
                Ok(None) => self.ready.push_back(Ok(Chunk::End)),
                Ok(Some(Ok(bytes))) => self.decode(&bytes),
            }
        }
    }

    fn decode(&mut self, bytes: &[u8]) {
        self.received_bytes += bytes.len();
        let events = match self.parser.push(bytes) {
            Ok(events) if self.received_bytes <= MAX_STREAM_BYTES => events,
            _ => return self.ready.push_back(Err(CallError::Malformed)),
        };
        for data in events {
            match self.format.read_event(&data) {
                Ok(chunks) => self.ready.extend(chunks.into_iter().map(Ok)),
                Err(error) => self.ready.push_back(Err(call_error(self.provider, &error))),
            }
        }
    }
}

/// Logs a response that holds no answer and returns the failure of its call.
pub(super) fn call_error(provider: ProviderId, error: &ReadError) -> CallError {
    tracing::warn!(%provider, %error, "response of the provider holds no answer");
    match error {
        ReadError::Malformed(_) => CallError::Malformed,
        ReadError::Overloaded(_) => CallError::Throttled { retry_after: None },
        ReadError::Reported(_) => CallError::Reported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: an endless stream never returned its permit.
    #[tokio::test]
    async fn a_stream_without_end_is_cut() {
        let event = format!(
            "data: {}\n\n",
            serde_json::json!({"choices": [{"delta": {"content": "x".repeat(1 << 20)}}]})
        );
        let endless = futures_util::stream::repeat(Bytes::from(event)).map(Ok);
        let chunks: Vec<_> = decode(ProviderId::OpenAi, WireFormat::OpenAi, endless).collect().await;
        assert_eq!(chunks.last(), Some(&Err(CallError::Malformed)));
        assert!(chunks.len() <= MAX_STREAM_BYTES >> 20);
    }
}
