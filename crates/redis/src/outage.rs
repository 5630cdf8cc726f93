//! Outage detection from the outcomes of calls. Pure: no I/O, no clock.

/// Consecutive failures that begin an outage.
const FAILURE_THRESHOLD: u32 = 3;

/// Outcome of a call, as evidence about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// The server replied.
    Replied,
    /// No reply arrived, or the server cannot serve.
    Failed,
    /// The server replied that it does not own the keys or is read-only.
    WrongServer,
}

/// Counts consecutive failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutageDetector {
    failures: u32,
}

impl OutageDetector {
    /// Returns true during an outage, while calls fail without being sent.
    pub(crate) fn is_outage(self) -> bool {
        self.failures >= FAILURE_THRESHOLD
    }

    /// Records the outcome of a call. Returns true if this call begins an outage.
    ///
    /// Ignored during an outage: calls that started before it are no new evidence, and only a probe ends it.
    pub(crate) fn record(&mut self, outcome: CallOutcome) -> bool {
        if self.is_outage() {
            return false;
        }
        self.failures = match outcome {
            CallOutcome::Replied => 0,
            CallOutcome::Failed => self.failures + 1,
            CallOutcome::WrongServer => FAILURE_THRESHOLD,
        };
        self.is_outage()
    }

    /// Ends the outage, after a probe has succeeded.
    pub(crate) fn end(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{CallOutcome::*, *};

    fn outage_starts(outcomes: &[CallOutcome]) -> Vec<bool> {
        let mut detector = OutageDetector::default();
        outcomes.iter().map(|outcome| detector.record(*outcome)).collect()
    }

    #[test]
    fn three_consecutive_failures_begin_an_outage() {
        assert_eq!(outage_starts(&[Failed, Failed, Failed]), [false, false, true]);
    }

    #[test]
    fn a_reply_resets_the_failure_count() {
        assert_eq!(outage_starts(&[Failed, Failed, Replied, Failed, Failed, Replied]), [false; 6]);
    }

    #[test]
    fn an_outage_begins_once_and_only_a_probe_ends_it() {
        let mut detector = OutageDetector { failures: FAILURE_THRESHOLD };
        for late in [Failed, Replied] {
            assert!(!detector.record(late));
            assert!(detector.is_outage());
        }
        detector.end();
        assert!(!detector.is_outage());
        assert!(!detector.record(Failed), "the count starts again from zero");
    }

    #[test]
    fn a_wrong_server_begins_an_outage_at_once() {
        let mut detector = OutageDetector::default();
        assert!(!detector.record(Replied));
        assert!(detector.record(WrongServer));
        assert!(detector.is_outage());
    }
}
