//! Records of the invalidation log, and their text form.

use std::{fmt, str::FromStr};

use crate::{Invalidation, fill_lock::FillOutcome};

/// Offset in the log: the id of a stream entry, `MILLISECONDS-COUNTER`, packed into 48 and 16 bits. The
/// counter of one millisecond stays below 65,536.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamOffset(pub(super) u64);

impl FromStr for StreamOffset {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ms, counter) = text.split_once('-').ok_or(())?;
        let (ms, counter): (u64, u64) = (ms.parse().map_err(|_| ())?, counter.parse().map_err(|_| ())?);
        if ms >= 1 << 48 || counter >= 1 << 16 {
            return Err(());
        }
        Ok(Self((ms << 16) | counter))
    }
}

impl fmt::Display for StreamOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A log record as Redis returns it: the id of the stream entry, and its fields and values in turn.
pub(super) type RawRecord = (String, Vec<String>);

/// Content of a log record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogRecord {
    /// The log starts here.
    Start,
    /// Responses were invalidated.
    Invalidated(Invalidation),
    /// The replica that fetched the response called `name` has released its lock.
    FillEnded { name: String, outcome: FillOutcome },
}

impl LogRecord {
    /// Returns the invalidation of the record, if it is one.
    pub(super) fn invalidation(&self) -> Option<&Invalidation> {
        match self {
            Self::Invalidated(invalidation) => Some(invalidation),
            Self::Start | Self::FillEnded { .. } => None,
        }
    }
}

impl fmt::Display for LogRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Invalidated(Invalidation::All) => f.write_str("all"),
            Self::Invalidated(Invalidation::Path(path)) => write!(f, "path {path}"),
            Self::Invalidated(Invalidation::Prefix(prefix)) => write!(f, "prefix {prefix}"),
            Self::Invalidated(Invalidation::Tag(tag)) => write!(f, "tag {tag}"),
            Self::FillEnded { name, outcome: FillOutcome::Filled } => write!(f, "filled {name}"),
            Self::FillEnded { name, outcome: FillOutcome::Invalidated } => write!(f, "invalidated {name}"),
        }
    }
}

impl From<&str> for LogRecord {
    /// Parses a record. An unknown one was written by a newer version and counts as the invalidation of
    /// everything.
    fn from(text: &str) -> Self {
        let fill_ended = |name: &str, outcome| Self::FillEnded { name: name.to_owned(), outcome };
        match text.split_once(' ') {
            None if text == "start" => Self::Start,
            Some(("path", path)) => Self::Invalidated(Invalidation::Path(path.to_owned())),
            Some(("prefix", prefix)) => Self::Invalidated(Invalidation::Prefix(prefix.to_owned())),
            Some(("tag", tag)) => Self::Invalidated(Invalidation::Tag(tag.to_owned())),
            Some(("filled", name)) => fill_ended(name, FillOutcome::Filled),
            Some(("invalidated", name)) => fill_ended(name, FillOutcome::Invalidated),
            _ => Self::Invalidated(Invalidation::All),
        }
    }
}

/// A parsed log record.
#[derive(Debug)]
pub(super) struct ParsedRecord<'a> {
    pub(super) offset: StreamOffset,
    /// Id of the replica that appended the record.
    pub(super) replica_id: &'a str,
    pub(super) record: LogRecord,
}

impl<'a> ParsedRecord<'a> {
    /// Parses a record as Redis returned it; `None` if its id is not one of a stream entry. A record with
    /// other fields than expected counts as the invalidation of everything.
    pub(super) fn parse((id, fields): &'a RawRecord) -> Option<Self> {
        let offset = id.parse().ok()?;
        Some(match fields.as_slice() {
            [_, replica_id, _, record] => {
                Self { offset, replica_id, record: LogRecord::from(record.as_str()) }
            }
            _ => Self { offset, ..Self::unreadable() },
        })
    }

    /// Returns a record that invalidates everything, in place of one that could mean anything.
    pub(super) fn unreadable() -> Self {
        Self {
            offset: StreamOffset::default(),
            replica_id: "",
            record: LogRecord::Invalidated(Invalidation::All),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_offset_survives_a_round_trip_and_orders_by_time() {
        for text in ["0-0", "1732480000000-7", "1732480000000-65535"] {
            assert_eq!(text.parse::<StreamOffset>().unwrap().to_string(), text);
        }
        for invalid in ["", "1", "-1", "1-65536", "x-1", "1-"] {
            assert!(invalid.parse::<StreamOffset>().is_err(), "{invalid}");
        }
        assert!("1-9".parse::<StreamOffset>().unwrap() < "2-0".parse().unwrap());
    }

    proptest! {
        #[test]
        fn a_record_survives_a_round_trip(text in ".{0,9}") {
            for record in [
                LogRecord::Start,
                LogRecord::Invalidated(Invalidation::All),
                LogRecord::Invalidated(Invalidation::Path(text.clone())),
                LogRecord::Invalidated(Invalidation::Prefix(text.clone())),
                LogRecord::Invalidated(Invalidation::Tag(text.clone())),
                LogRecord::FillEnded { name: text.clone(), outcome: FillOutcome::Filled },
                LogRecord::FillEnded { name: text.clone(), outcome: FillOutcome::Invalidated },
            ] {
                prop_assert_eq!(LogRecord::from(record.to_string().as_str()), record);
            }
        }
    }
}
