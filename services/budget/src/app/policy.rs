//! Use cases of the provider policy, and its copy in memory.
//!
//! Every replica has a copy, which follows the database: a change by another replica is seen at the
//! next refresh, and changes the limit on concurrent calls.

use std::sync::Arc;

use parking_lot::Mutex;
use phase6_chassis::store::{ExpectedVersion, StoreError, Versioned};

use super::{AppState, ConcurrencyLimit, tags};
use crate::{
    model::{PolicyChange, ProviderPolicy},
    store::{ChangePolicyError, PolicyStore},
};

/// Copy of the provider policy in memory. Clones share it.
#[derive(Clone)]
pub struct CurrentPolicy {
    store: PolicyStore,
    concurrency: ConcurrencyLimit,
    current: Arc<Mutex<Versioned<ProviderPolicy>>>,
}

impl CurrentPolicy {
    /// Loads the policy from `store`, or uses `initial` if nobody has changed it yet. Applies it to
    /// `concurrency`.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn load(
        store: PolicyStore,
        concurrency: ConcurrencyLimit,
        initial: ProviderPolicy,
    ) -> Result<Self, StoreError> {
        let current = Versioned { version: 0, value: initial };
        let policy = Self { store, concurrency, current: Arc::new(Mutex::new(current)) };
        policy.follow(current);
        policy.refresh().await?;
        Ok(policy)
    }

    /// Returns the policy as of the last refresh or change.
    pub fn get(&self) -> Versioned<ProviderPolicy> {
        *self.current.lock()
    }

    /// Reads the policy, which another replica may have changed.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        if let Some(policy) = self.store.load().await? {
            self.follow(policy);
        }
        Ok(())
    }

    /// Changes the policy for all replicas and returns the new one.
    ///
    /// # Errors
    ///
    /// The policy has another version than `expected`, or the database cannot be written.
    pub async fn change(
        &self,
        change: PolicyChange,
        expected: &ExpectedVersion,
    ) -> Result<Versioned<ProviderPolicy>, ChangePolicyError> {
        let policy = self.store.change(change, self.get().value, expected).await?;
        self.follow(policy);
        Ok(policy)
    }

    /// Applies a policy, unless a newer one has been applied: a refresh may have read before a change.
    fn follow(&self, policy: Versioned<ProviderPolicy>) {
        let mut current = self.current.lock();
        if policy.version >= current.version {
            *current = policy;
        }
        self.concurrency.set_limit(current.value.max_concurrency as usize);
    }
}

impl AppState {
    /// Returns the provider policy.
    pub fn policy(&self) -> ProviderPolicy {
        self.policy.get().value
    }

    /// Returns the provider policy and its version.
    pub fn versioned_policy(&self) -> Versioned<ProviderPolicy> {
        self.policy.get()
    }

    /// Changes the provider policy for all replicas and returns the new one.
    ///
    /// # Errors
    ///
    /// The policy has another version than `expected`, or the database cannot be written.
    pub async fn change_policy(
        &self,
        change: PolicyChange,
        expected: &ExpectedVersion,
    ) -> Result<Versioned<ProviderPolicy>, ChangePolicyError> {
        let policy = self.policy.change(change, expected).await?;
        self.invalidate(None, tags::PROVIDER_POLICY);
        Ok(policy)
    }

    /// Reads the provider policy, which another replica may have changed.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn refresh_policy(&self) -> Result<(), StoreError> {
        self.policy.refresh().await
    }
}
