//! The provider policy: the number of concurrent calls and the default criticality.

use super::{Criticality, InvalidValue};

/// Largest number of concurrent calls of one replica.
pub const MAX_CONCURRENCY: u32 = 12;
/// Smallest number of concurrent calls of one replica.
pub const MIN_CONCURRENCY: u32 = 1;

/// Policy for calls to providers, shared by all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderPolicy {
    /// Maximum number of concurrent calls of one replica.
    pub max_concurrency: u32,
    /// Criticality of requests that do not state one.
    pub criticality: Criticality,
}

/// A change of the policy. Absent values stay as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyChange {
    max_concurrency: Option<u32>,
    criticality: Option<Criticality>,
}

impl PolicyChange {
    /// Creates a change.
    ///
    /// # Errors
    ///
    /// `max_concurrency` is outside of 1 to 12.
    pub fn new(max_concurrency: Option<u32>, criticality: Option<Criticality>) -> Result<Self, InvalidValue> {
        match max_concurrency {
            Some(calls) if !(MIN_CONCURRENCY..=MAX_CONCURRENCY).contains(&calls) => {
                let accepted = format!("a whole number from {MIN_CONCURRENCY} to {MAX_CONCURRENCY}");
                Err(InvalidValue::new("maxConcurrency", calls, accepted))
            }
            _ => Ok(Self { max_concurrency, criticality }),
        }
    }

    /// Returns `policy` with this change.
    #[must_use]
    pub fn apply_to(self, policy: ProviderPolicy) -> ProviderPolicy {
        ProviderPolicy {
            max_concurrency: self.max_concurrency.unwrap_or(policy.max_concurrency),
            criticality: self.criticality.unwrap_or(policy.criticality),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_concurrency_outside_of_the_range() {
        for calls in [0, 13] {
            let error = PolicyChange::new(Some(calls), None).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("field `maxConcurrency` is {calls}; accepted: a whole number from 1 to 12")
            );
        }
    }

    #[test]
    fn absent_values_of_a_change_leave_the_policy_as_it_is() {
        let policy = ProviderPolicy { max_concurrency: 4, criticality: Criticality::Normal };
        assert_eq!(PolicyChange::default().apply_to(policy), policy);
        let change = PolicyChange::new(Some(7), None).unwrap();
        assert_eq!(change.apply_to(policy), ProviderPolicy { max_concurrency: 7, ..policy });
    }
}
