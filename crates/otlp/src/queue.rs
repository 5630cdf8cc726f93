//! Bounded queue of encoded spans between requests and the export task.

use std::mem;

use parking_lot::Mutex;
use phase6_telemetry::Span;
use tokio::sync::Notify;

use crate::encode::encode_span;

/// Maximum number of queued spans.
const MAX_SPANS: u64 = 2_048;
/// Maximum size of the queued spans in bytes, exceeded by one span at most. Keeps a message of all queued
/// spans below the 4 MiB that collectors accept over gRPC.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Number of queued spans that makes a full batch.
pub(crate) const BATCH_SPANS: u64 = 512;
/// Maximum capacity of a buffer that is reused for the next batch, in bytes.
pub(crate) const MAX_RETAINED_BYTES: usize = 256 * 1024;

/// Filled by requests, emptied by the export task.
#[derive(Debug, Default)]
pub(crate) struct SpanQueue {
    batch: Mutex<Batch>,
    /// Notified when the first span is queued.
    pub(crate) first_span: Notify,
    /// Notified when a full batch is queued.
    pub(crate) full_batch: Notify,
}

#[derive(Debug, Default)]
struct Batch {
    encoded: Vec<u8>,
    spans: u64,
    closed: bool,
}

impl SpanQueue {
    /// Adds a span. Returns false if the queue is full or closed.
    pub(crate) fn push(&self, span: &Span) -> bool {
        let spans = {
            let mut batch = self.batch.lock();
            if batch.closed || batch.spans >= MAX_SPANS || batch.encoded.len() >= MAX_BYTES {
                return false;
            }
            encode_span(span, &mut batch.encoded);
            batch.spans += 1;
            batch.spans
        };
        if spans == 1 {
            self.first_span.notify_one();
        } else if spans == BATCH_SPANS {
            self.full_batch.notify_one();
        }
        true
    }

    /// Moves the queued spans into `encoded` and returns their number. The queue reuses the memory of
    /// `encoded`. Closes the queue if `close`.
    pub(crate) fn take(&self, encoded: &mut Vec<u8>, close: bool) -> u64 {
        encoded.clear();
        encoded.shrink_to(MAX_RETAINED_BYTES);
        let mut batch = self.batch.lock();
        batch.closed |= close;
        mem::swap(&mut batch.encoded, encoded);
        mem::take(&mut batch.spans)
    }
}
