//! Whether the server counts as gone, by how the last calls ended. Pure.

/// Failures in a row after which it counts as gone.
const GONE_AFTER: u32 = 3;

/// What a call says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is there.
    Answered,
    /// Nothing came of it.
    Failed,
    /// It is there, and is not the one to ask.
    Elsewhere,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    failures: u32,
}

impl Outage {
    /// Whether callers are to be refused at once.
    pub fn is_gone(self) -> bool {
        self.failures >= GONE_AFTER
    }

    /// Takes the end of a call; tells whether the server counts as gone from here on.
    ///
    /// During an outage nothing is learnt from calls that began before it: only a probe ends it.
    pub(crate) fn call_ended(&mut self, told: Told) -> bool {
        if self.is_gone() {
            return false;
        }
        self.failures = match told {
            Told::Answered => 0,
            Told::Failed => self.failures + 1,
            Told::Elsewhere => GONE_AFTER,
        };
        self.is_gone()
    }

    /// A probe was answered.
    pub(crate) fn over(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(answers: &[bool]) -> Vec<bool> {
        let mut outage = Outage::default();
        let told = |answered: &bool| if *answered { Told::Answered } else { Told::Failed };
        answers.iter().map(|answered| outage.call_ended(told(answered))).collect()
    }

    #[test]
    fn three_failures_in_a_row_are_an_outage() {
        assert_eq!(turns(&[false, false, false]), [false, false, true]);
    }

    #[test]
    fn failures_among_answers_are_none() {
        assert_eq!(turns(&[false, false, true, false, false, true]), [false; 6]);
    }

    #[test]
    fn an_outage_begins_once_and_only_a_probe_ends_it() {
        let mut outage = Outage { failures: GONE_AFTER };
        for late in [Told::Failed, Told::Answered] {
            assert!(!outage.call_ended(late));
            assert!(outage.is_gone());
        }
        outage.over();
        assert!(!outage.is_gone());
        assert!(!outage.call_ended(Told::Failed), "the count begins anew");
    }

    #[test]
    fn a_server_that_sends_us_elsewhere_is_gone_at_once() {
        let mut outage = Outage::default();
        assert!(!outage.call_ended(Told::Answered));
        assert!(outage.call_ended(Told::Elsewhere));
        assert!(outage.is_gone());
    }
}
