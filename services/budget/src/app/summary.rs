//! Use case: providers, budget, prices and policy at one moment.

use std::collections::BTreeMap;

use jiff::Timestamp;
use phase6_chassis::identity::Name;

use super::AppState;
use crate::{
    model::{PriceList, ProviderId, ProviderPolicy, spending::DailySpending},
    providers::ProviderStatus,
};

/// Providers, budget, prices and policy at one moment.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Time of the summary.
    pub at: Timestamp,
    /// Status of every provider.
    pub providers: BTreeMap<ProviderId, ProviderStatus>,
    /// Spending of the current UTC day, or `None` if the database cannot be read now.
    pub spending: Option<DailySpending>,
    /// Prices of every provider.
    pub prices: PriceList,
    /// Provider policy.
    pub policy: ProviderPolicy,
}

impl AppState {
    /// Returns a summary of this moment, with the spending of a tenant.
    pub async fn summary(&self, tenant: &Name) -> Summary {
        let now = self.now();
        let spending = self.ledger.spending(tenant, now).await.ok();
        Summary {
            at: now,
            providers: self.directory.status().await,
            spending,
            prices: self.prices.clone(),
            policy: self.policy(),
        }
    }
}
