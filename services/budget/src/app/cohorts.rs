//! Use cases of cohorts: their metrics and budgets, and the export of everything.

use phase6_chassis::{identity::Name, store::StoreError};

use super::AppState;
use crate::model::{
    MicroDollars, PriceList, ProviderId,
    cohort::{Affordability, CohortId, CohortMetrics, Suggestion, affordability, suggest},
    spending::ProviderQuality,
};

/// Metrics of a cohort with advice.
#[derive(Clone, Debug)]
pub struct CohortOverview {
    /// Metrics of the cohort.
    pub metrics: CohortMetrics,
    /// Usable providers, the least expensive one first.
    pub providers: Vec<ProviderId>,
    /// Advice on the budget of the cohort.
    pub suggestion: Suggestion,
}

/// Result of comparing a cost with the budgets of a cohort.
#[derive(Clone, Debug)]
pub struct CostCheck {
    /// Cost that was compared.
    pub cost: MicroDollars,
    /// Metrics of the cohort.
    pub metrics: CohortMetrics,
    /// Result of the comparison.
    pub affordability: Affordability,
}

/// Prices, cohorts and providers in one report.
#[derive(Clone, Debug)]
pub struct Export {
    /// Prices of every provider.
    pub prices: PriceList,
    /// Metrics of the cohorts that have spent most.
    pub cohorts: Vec<CohortMetrics>,
    /// Performance of each provider at each kind of task.
    pub quality: Vec<ProviderQuality>,
}

impl AppState {
    /// Returns the metrics of a cohort.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn cohort_metrics(
        &self,
        tenant: &Name,
        cohort: &CohortId,
    ) -> Result<CohortMetrics, StoreError> {
        self.cohorts.metrics(tenant, cohort).await
    }

    /// Returns the metrics of a cohort with advice.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn cohort_overview(
        &self,
        tenant: &Name,
        cohort: &CohortId,
    ) -> Result<CohortOverview, StoreError> {
        let metrics = self.cohorts.metrics(tenant, cohort).await?;
        let mut providers = self.directory.usable().await;
        providers.sort_by_key(|id| self.prices.of(*id).per_call);
        let suggestion = suggest(&metrics);
        Ok(CohortOverview { metrics, providers, suggestion })
    }

    /// Compares a cost with the budgets of a cohort. Without an estimate, the cost is the price of a
    /// call to `provider`.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn check_cost(
        &self,
        tenant: &Name,
        cohort: &CohortId,
        provider: ProviderId,
        estimate: Option<MicroDollars>,
    ) -> Result<CostCheck, StoreError> {
        let cost = estimate.unwrap_or_else(|| self.prices.of(provider).per_call);
        let metrics = self.cohorts.metrics(tenant, cohort).await?;
        let affordability = affordability(cost, &metrics);
        Ok(CostCheck { cost, metrics, affordability })
    }

    /// Returns prices, cohorts and providers in one report.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn export(&self, tenant: &Name) -> Result<Export, StoreError> {
        let cohorts = self.cohorts.export(tenant).await?;
        Ok(Export { prices: self.prices.clone(), cohorts, quality: self.history.quality(tenant).await? })
    }
}
