//! The directory of all providers: their availability, and a hint if none is usable.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use phase6_chassis::Kit;

use super::{Client, Provider, ProviderStatus};
use crate::{
    config::ProviderConfig,
    model::{Criticality, ProviderId},
};

/// Every provider, with the client that calls them. Clones share the providers.
#[derive(Clone)]
pub struct Directory {
    /// Providers, in the order of [`ProviderId::ALL`].
    providers: Arc<[Provider]>,
    client: Client,
}

impl Directory {
    /// Creates the providers, and registers the circuit breakers of those that can be called.
    pub fn new(configs: Vec<ProviderConfig>, client: Client, kit: &Kit) -> Self {
        let providers: Vec<_> = configs
            .into_iter()
            .map(|config| {
                let breaker = kit.breaker(config.id.as_str());
                Provider::new(config, breaker)
            })
            .collect();
        for provider in providers.iter().filter(|provider| provider.excluded_reason().is_none()) {
            kit.show_breaker(provider.breaker());
            if let Some(warning) = provider.price_warning() {
                tracing::warn!(provider = %provider.id(), "{warning}");
            }
        }
        Self { providers: providers.into(), client }
    }

    /// HTTP client of all providers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns a provider.
    pub fn get(&self, id: ProviderId) -> &Provider {
        &self.providers[id as usize]
    }

    /// Returns the providers that can be called, apart from their circuit breakers. Probes local
    /// servers.
    pub async fn usable(&self) -> Vec<ProviderId> {
        let reasons = self.unusable_reasons().await;
        let usable = self.providers.iter().zip(reasons).filter(|(_, reason)| reason.is_none());
        usable.map(|(provider, _)| provider.id()).collect()
    }

    /// Returns the status of every provider. Probes local servers.
    pub async fn status(&self) -> BTreeMap<ProviderId, ProviderStatus> {
        let reasons = self.unusable_reasons().await;
        let providers = self.providers.iter().zip(reasons);
        providers.map(|(provider, reason)| (provider.id(), provider.status(reason))).collect()
    }

    async fn unusable_reasons(&self) -> Vec<Option<String>> {
        join_all(self.providers.iter().map(|provider| provider.unusable_reason(&self.client))).await
    }

    /// Explains why none of the candidates is usable, and names the settings to change.
    pub fn explain_none_usable(&self, candidates: &[ProviderId], criticality: Criticality) -> String {
        let is_every_provider = candidates.len() == ProviderId::ALL.len();
        if is_every_provider && !self.providers.iter().any(Provider::has_key) {
            return self.setup_hint();
        }
        let reason = |id: &ProviderId| {
            let reason = self.get(*id).last_unusable_reason();
            format!("{id}: {}", reason.unwrap_or_else(|| "not usable now".to_owned()))
        };
        let reasons = candidates.iter().map(reason).collect::<Vec<_>>().join("; ");
        match candidates {
            [_] => reasons,
            _ => format!("none of the providers for {criticality} criticality is usable: {reasons}"),
        }
    }

    /// Names the settings that would make a provider usable.
    fn setup_hint(&self) -> String {
        let keys: Vec<_> = self.providers.iter().filter_map(Provider::key_setting).collect();
        let local = self.providers.iter().filter(|provider| provider.id().is_local());
        let local: Vec<_> =
            local.map(|provider| format!("{} at {}", provider.id(), provider.base_url())).collect();
        format!("no AI provider is usable: set one of {}, or start {}", keys.join(", "), local.join(" or "))
    }
}
