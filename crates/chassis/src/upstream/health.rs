//! Whether an endpoint is well, by what its probes say. Pure.
//!
//! ```text
//!   unknown | degraded | unhealthy --one success--> healthy
//!   healthy --one failure--> degraded --more, 3 in a row--> unhealthy
//! ```

use serde::Serialize;

/// Failures in a row after which an endpoint counts as unhealthy.
const UNHEALTHY_AFTER: u32 = 3;

/// What is thought of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Not probed yet.
    #[default]
    Unknown,
    /// The last probe succeeded.
    Healthy,
    /// The last probes failed, not often enough to give it up.
    Degraded,
    /// It gets no calls while another endpoint is better.
    Unhealthy,
}

impl Condition {
    pub(crate) const ALL: [Self; 4] = [Self::Unknown, Self::Healthy, Self::Degraded, Self::Unhealthy];

    /// As it is shown.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// An endpoint's condition and how it came to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    condition: Condition,
    failures: u32,
}

impl Health {
    pub(crate) fn condition(self) -> Condition {
        self.condition
    }

    /// Takes the result of a probe; tells every change, from what to what.
    pub(crate) fn observe(&mut self, success: bool) -> Option<(Condition, Condition)> {
        let before = self.condition;
        if success {
            self.failures = 0;
            self.condition = Condition::Healthy;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.condition =
                if self.failures >= UNHEALTHY_AFTER { Condition::Unhealthy } else { Condition::Degraded };
        }
        (before != self.condition).then_some((before, self.condition))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Condition::{Degraded, Healthy, Unhealthy, Unknown},
        *,
    };

    /// In the original, listeners heard of `degraded` and never of `unhealthy`, and an endpoint
    /// was never ready.
    #[test]
    fn every_change_is_told() {
        let mut health = Health::default();
        let told: Vec<_> = [true, true, false, false, false, false, true]
            .into_iter()
            .filter_map(|success| health.observe(success))
            .collect();
        assert_eq!(
            told,
            [(Unknown, Healthy), (Healthy, Degraded), (Degraded, Unhealthy), (Unhealthy, Healthy)]
        );
    }

    #[test]
    fn one_success_is_enough_to_recover() {
        let mut health = Health::default();
        for _ in 0..10 {
            health.observe(false);
        }
        assert_eq!(health.condition(), Condition::Unhealthy);
        health.observe(true);
        health.observe(false);
        assert_eq!(health.condition(), Condition::Degraded, "the count began anew");
    }
}
