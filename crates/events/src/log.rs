//! The newest events, in order, in bounded memory. Pure.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use phase6_identity::Name;

/// An event as it is kept.
pub(crate) struct Entry {
    /// Tenant that may see it; `None` for all tenants.
    pub(crate) tenant: Option<Name>,
    pub(crate) topic: &'static str,
    /// The event as it is written to subscribers.
    pub(crate) frame: Bytes,
}

/// The newest events. Numbers begin at 1 and have no gaps.
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    /// Number of the first entry.
    first: u64,
    /// Sum of the lengths of all frames, in bytes.
    size: usize,
    max_entries: usize,
    max_size: usize,
}

/// Events after a position, and the position after them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Following {
    /// The events, one after the other; empty if the reader may see none of them.
    pub(crate) chunk: Bytes,
    pub(crate) position: u64,
}

impl Log {
    pub(crate) fn new(max_entries: usize, max_size: usize) -> Self {
        Self { entries: VecDeque::new(), first: 1, size: 0, max_entries, max_size }
    }

    /// Number of the last event; 0 before the first one.
    pub(crate) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// Appends an event, which is made from its number. Removes the oldest ones beyond the bounds.
    pub(crate) fn append(&mut self, entry: impl FnOnce(u64) -> Entry) -> u64 {
        let number = self.last() + 1;
        let entry = entry(number);
        self.size += entry.frame.len();
        self.entries.push_back(entry);
        while self.entries.len() > self.max_entries || (self.size > self.max_size && self.entries.len() > 1) {
            let oldest = self.entries.pop_front().expect("the log has entries");
            self.size -= oldest.frame.len();
            self.first += 1;
        }
        number
    }

    /// Returns the events after a position that `is_visible` accepts, up to about `max_bytes`; `None` if some of
    /// them have been removed, or the position has not been reached.
    pub(crate) fn after(
        &self,
        position: u64,
        max_bytes: usize,
        is_visible: impl Fn(&Entry) -> bool,
    ) -> Option<Following> {
        if position > self.last() || position + 1 < self.first {
            return None;
        }
        let mut following = Following { chunk: Bytes::new(), position };
        let mut joined = BytesMut::new();
        for entry in self.entries.range((position + 1 - self.first) as usize..) {
            following.position += 1;
            if !is_visible(entry) {
                continue;
            }
            // A single event, the usual case, is not copied.
            if following.chunk.is_empty() && joined.is_empty() {
                following.chunk = entry.frame.clone();
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&following.chunk);
            }
            joined.extend_from_slice(&entry.frame);
            if joined.len() >= max_bytes {
                break;
            }
        }
        if !joined.is_empty() {
            following.chunk = joined.freeze();
        }
        Some(following)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(topic: &'static str, frame: &str) -> Entry {
        Entry { tenant: None, topic, frame: Bytes::copy_from_slice(frame.as_bytes()) }
    }

    #[test]
    fn a_position_that_is_unknown_has_no_events() {
        let mut log = Log::new(2, 100);
        assert_eq!(log.after(0, 100, |_| true).map(|following| following.position), Some(0));
        for future in [1, u64::MAX] {
            assert_eq!(log.after(future, 100, |_| true), None, "not reached");
        }
        for number in 1..=3 {
            assert_eq!(log.append(|number| entry("a", &format!("{number};"))), number);
        }
        assert_eq!(log.after(0, 100, |_| true), None, "the first event has been removed");
        let following = log.after(1, 100, |_| true).unwrap();
        assert_eq!((&following.chunk[..], following.position), (&b"2;3;"[..], 3));
    }

    #[test]
    fn the_size_of_the_log_is_bounded() {
        let mut log = Log::new(1000, 10);
        for _ in 0..5 {
            log.append(|_| entry("a", "1234"));
        }
        assert_eq!((log.size, log.entries.len(), log.last()), (8, 2, 5));
        log.append(|_| entry("a", "a frame that is larger than the log"));
        assert_eq!(log.entries.len(), 1, "the newest event is always there");
    }

    proptest! {
        #[test]
        fn a_reader_gets_every_visible_event_once_and_in_order(
            batches in prop::collection::vec(prop::collection::vec(any::<bool>(), 0..10), 1..20),
            max_bytes in 1_usize..40,
        ) {
            let mut log = Log::new(10_000, 1_000_000);
            let (mut position, mut read, mut expected) = (0, String::new(), String::new());
            for batch in batches {
                for is_visible in batch {
                    let topic = if is_visible { "seen" } else { "other" };
                    let number = log.append(|number| entry(topic, &format!("{number};")));
                    if is_visible {
                        expected.push_str(&number.to_string());
                        expected.push(';');
                    }
                }
                while position < log.last() {
                    let following = log.after(position, max_bytes, |entry| entry.topic == "seen").unwrap();
                    prop_assert!(following.position > position);
                    position = following.position;
                    read += std::str::from_utf8(&following.chunk).unwrap();
                }
            }
            prop_assert_eq!(read, expected);
        }
    }
}
