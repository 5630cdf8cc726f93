//! How long one request waits for Redis, all its waits together.

use std::time::Duration;

use crate::LIMIT;

/// What is left of [`LIMIT`] to a request that may have waited for Redis before: for a limit, and then for an
/// answer. Once it has waited it carries this in its extensions; who finds none there has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(LIMIT)
    }
}

impl Patience {
    /// What is left after a wait.
    #[must_use]
    pub fn after(self, waited: Duration) -> Self {
        Self(self.0.saturating_sub(waited))
    }

    /// How long it may wait yet.
    pub fn left(self) -> Duration {
        self.0
    }

    /// Whether it waits no more.
    pub fn is_spent(self) -> bool {
        self.0.is_zero()
    }
}
