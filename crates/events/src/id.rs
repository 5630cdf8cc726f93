//! Position of an event in the log of one process.

use std::{fmt, str::FromStr};

/// ID of an event: the log that it belongs to, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// Random number of the log. Each process has another one.
    pub log: u32,
    /// Number of the event, from 1; 0 is the position before the first one.
    pub number: u64,
}

/// Eight hexadecimal digits, a dash, and the number.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.log, self.number)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (log, number) = text.split_once('-').ok_or(())?;
        let log = u32::from_str_radix(log, 16).map_err(|_| ())?;
        Ok(Self { log, number: number.parse().map_err(|_| ())? })
    }
}
