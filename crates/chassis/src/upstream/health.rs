//! Health of an endpoint according to its readiness probes. Pure.
//!
//! ```text
//!   unknown | degraded | unhealthy --one success--> healthy
//!   unknown | healthy --one failure--> degraded --3 failures in a row--> unhealthy
//! ```

use serde::Serialize;

/// Number of failures in a row after which an endpoint is unhealthy.
const UNHEALTHY_AFTER: u32 = 3;

/// Health of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointHealth {
    /// Not probed yet.
    #[default]
    Unknown,
    /// The last probe succeeded.
    Healthy,
    /// The last probes failed, but fewer than an unhealthy endpoint has.
    Degraded,
    /// Several probes in a row failed. The endpoint receives no calls while a healthier one exists.
    Unhealthy,
}

impl EndpointHealth {
    pub(crate) const ALL: [Self; 4] = [Self::Unknown, Self::Healthy, Self::Degraded, Self::Unhealthy];

    /// Name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Change of an endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) from: EndpointHealth,
    pub(crate) to: EndpointHealth,
}

/// Tracks the health of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HealthTracker {
    health: EndpointHealth,
    /// Failures in a row.
    failures: u32,
}

impl HealthTracker {
    pub(crate) fn health(self) -> EndpointHealth {
        self.health
    }

    /// Records the result of a probe. Returns the change of health, if there is one.
    pub(crate) fn record(&mut self, success: bool) -> Option<Transition> {
        let from = self.health;
        if success {
            self.failures = 0;
            self.health = EndpointHealth::Healthy;
        } else {
            self.failures = self.failures.saturating_add(1);
            let is_unhealthy = self.failures >= UNHEALTHY_AFTER;
            self.health = if is_unhealthy { EndpointHealth::Unhealthy } else { EndpointHealth::Degraded };
        }
        (from != self.health).then_some(Transition { from, to: self.health })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        EndpointHealth::{Degraded, Healthy, Unhealthy, Unknown},
        *,
    };

    /// In the original system, listeners received `degraded` and never `unhealthy`, and an endpoint was never
    /// ready.
    #[test]
    fn reports_every_transition() {
        let mut tracker = HealthTracker::default();
        let transitions: Vec<_> = [true, true, false, false, false, false, true]
            .into_iter()
            .filter_map(|success| tracker.record(success))
            .map(|Transition { from, to }| (from, to))
            .collect();
        assert_eq!(
            transitions,
            [(Unknown, Healthy), (Healthy, Degraded), (Degraded, Unhealthy), (Unhealthy, Healthy)]
        );
    }

    #[test]
    fn one_success_is_enough_to_recover() {
        let mut tracker = HealthTracker::default();
        for _ in 0..10 {
            tracker.record(false);
        }
        assert_eq!(tracker.health(), Unhealthy);
        tracker.record(true);
        tracker.record(false);
        assert_eq!(tracker.health(), Degraded, "failures are counted from zero again");
    }
}
