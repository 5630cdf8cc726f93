//! Tags of cached responses: the subject that a response depends on.
//!
//! `api` puts them on responses, and use cases invalidate them when the subject changes.

use crate::model::cohort::CohortId;

/// Amounts spent and reserved, and recorded calls.
pub(crate) const SPENDING: &str = "spending";
/// Prices of providers.
pub(crate) const PRICES: &str = "prices";
/// Status of providers.
pub(crate) const PROVIDERS: &str = "providers";
/// Provider policy.
pub(crate) const PROVIDER_POLICY: &str = "provider-policy";
/// Every cohort.
pub(crate) const COHORTS: &str = "cohorts";

/// Tag of one cohort.
pub(crate) fn cohort(id: &CohortId) -> String {
    // A tag consists of visible ASCII characters.
    let replace = |c: char| if c.is_ascii_graphic() { c } else { '_' };
    format!("cohort:{}", id.as_str().chars().map(replace).collect::<String>())
}
