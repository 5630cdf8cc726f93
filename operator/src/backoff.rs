//! Delays between retries of a failed reconcile.

use std::time::Duration;

use kube::{ResourceExt, api::DynamicObject, runtime::reflector::Store};

use crate::per_resource::PerResource;

/// Delay after the first failure; each further failure doubles it.
const MIN_DELAY: Duration = Duration::from_millis(200);
/// Longest delay, before jitter.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Exponential back-off for each resource.
pub struct Backoff {
    failures: PerResource<u32>,
}

/// Retry that is due after a failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Number of failures since the last success.
    pub failures: u32,
    /// Delay until the retry.
    pub delay: Duration,
}

impl Backoff {
    /// Creates a back-off without failures for the given resources.
    pub fn new(resources: Store<DynamicObject>) -> Self {
        Self { failures: PerResource::new(resources) }
    }

    /// Records a failure and returns the retry.
    ///
    /// The delay varies by a quarter from resource to resource, so that resources that failed together are
    /// not retried together.
    pub fn record_failure(&self, object: &DynamicObject) -> Retry {
        let failures = self.failures.with(object, |failures| {
            *failures = failures.saturating_add(1);
            *failures
        });
        let delay = MIN_DELAY.saturating_mul(1 << (failures - 1).min(16)).min(MAX_DELAY);
        Retry { failures, delay: delay.mul_f64(0.75 + 0.5 * fraction(&object.name_any())) }
    }

    /// Forgets the failures of a resource.
    pub fn reset(&self, object: &DynamicObject) {
        self.failures.with(object, |failures| *failures = 0);
    }
}

/// Maps a name to a number from 0 to 1.
fn fraction(name: &str) -> f64 {
    let sum = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    f64::from(sum % 1000) / 1000.0
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store::Writer;

    use super::*;
    use crate::resource::resource_api;

    #[test]
    fn delays_double_up_to_a_bound_and_start_over_after_a_success() {
        let backoff = Backoff::new(Writer::new(resource_api()).as_reader());
        let object = DynamicObject::new("budget", &resource_api()).within("learning");
        let first = backoff.record_failure(&object);
        let second = backoff.record_failure(&object);
        assert_eq!((first.failures, second.failures), (1, 2));
        assert_eq!(second.delay, first.delay * 2);
        assert!((150..=250).contains(&first.delay.as_millis()), "{first:?}");
        for _ in 0..40 {
            backoff.record_failure(&object);
        }
        assert!(backoff.record_failure(&object).delay <= MAX_DELAY.mul_f64(1.25));
        backoff.reset(&object);
        assert_eq!(backoff.record_failure(&object), first);
    }
}
