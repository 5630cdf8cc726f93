//! The wall clock of a service, which tests can replace.
//!
//! For times that are shown or stored. Durations are measured with monotonic clocks elsewhere.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;

/// Source of the current time: the system's clock, or a manual one. Clones of a manual clock share its
/// time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Time of a manual clock.
    manual: Option<Arc<Mutex<Timestamp>>>,
}

impl Clock {
    /// Creates a clock that shows `start` until it is advanced.
    pub fn manual(start: Timestamp) -> Self {
        Self { manual: Some(Arc::new(Mutex::new(start))) }
    }

    /// Current time.
    pub fn now(&self) -> Timestamp {
        self.manual.as_ref().map_or_else(Timestamp::now, |time| *time.lock())
    }

    /// Advances a manual clock.
    ///
    /// # Panics
    ///
    /// If this is the system's clock, or the time exceeds the range of timestamps.
    pub fn advance(&self, duration: Duration) {
        let time = self.manual.as_ref().expect("only a manual clock can be advanced");
        let mut time = time.lock();
        *time = time.checked_add(duration).expect("the time is within the range of timestamps");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_advance_together() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let clone = clock.clone();
        clock.advance(Duration::from_secs(90));
        assert_eq!(clone.now().as_second(), 90);
    }
}
