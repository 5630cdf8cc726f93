//! Use cases of the ledger and of recorded calls.

use phase6_chassis::{identity::Name, store::StoreError};

use super::AppState;
use crate::model::spending::{CallPosition, CallRecord, DailySpending, ProviderQuality, top_performer};

/// Performance of all providers.
#[derive(Clone, Debug)]
pub struct LearningStats {
    /// Performance of each provider at each kind of task.
    pub quality: Vec<ProviderQuality>,
    /// Number of recorded calls.
    pub calls: i64,
    /// Provider and task with the highest success rate, if there are enough calls.
    pub top_performer: Option<ProviderQuality>,
}

impl AppState {
    /// Returns the spending of a tenant on the current UTC day.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn spending_today(&self, tenant: &Name) -> Result<DailySpending, StoreError> {
        self.ledger.spending(tenant, self.now()).await
    }

    /// Returns up to `limit` calls of a tenant that are older than the call `after`, newest first.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn recent_calls(
        &self,
        tenant: &Name,
        after: Option<CallPosition>,
        limit: usize,
    ) -> Result<Vec<CallRecord>, StoreError> {
        self.history.recent(tenant, after, limit).await
    }

    /// Returns the performance of all providers for a tenant.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn learning_stats(&self, tenant: &Name) -> Result<LearningStats, StoreError> {
        let quality = self.history.quality(tenant).await?;
        let calls = quality.iter().map(|entry| entry.calls).sum();
        let top_performer = top_performer(&quality).cloned();
        Ok(LearningStats { quality, calls, top_performer })
    }

    /// Charges expired reservations, and removes old calls.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn charge_expired_reservations(&self) -> Result<(), StoreError> {
        self.ledger.reclaim(self.now()).await.map(drop)
    }

    /// Removes expired answers.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn remove_expired_answers(&self) -> Result<(), StoreError> {
        self.answers.sweep(self.now()).await
    }
}
