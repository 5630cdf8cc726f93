//! Time that one request may still wait for Redis, over all of its calls.

use std::time::Duration;

use crate::CALL_LIMIT;

/// Remaining part of [`CALL_LIMIT`] for one request.
///
/// A request can wait for Redis more than once: for a rate limit, then for a cached response. After the first
/// wait it carries its remaining budget in its extensions; a request without one there has the full budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitBudget(Duration);

impl Default for WaitBudget {
    fn default() -> Self {
        Self(CALL_LIMIT)
    }
}

impl WaitBudget {
    /// Budget that remains after a wait.
    #[must_use]
    pub fn after(self, waited: Duration) -> Self {
        Self(self.0.saturating_sub(waited))
    }

    /// Longest time that the request may still wait.
    pub fn remaining(self) -> Duration {
        self.0
    }

    /// Returns true if no time remains.
    pub fn is_exhausted(self) -> bool {
        self.0.is_zero()
    }
}
