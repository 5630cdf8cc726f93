//! Use cases of providers: their status, and the one to use.

use std::collections::BTreeMap;

use super::AppState;
use crate::{
    model::{Criticality, MicroDollars, ProviderId, Task, routing::candidates},
    providers::ProviderStatus,
};

/// A recommended provider.
#[derive(Clone, Debug)]
pub struct Recommendation {
    /// Provider to use.
    pub provider: ProviderId,
    /// Price of a call to it.
    pub cost: MicroDollars,
    /// Reason of the recommendation.
    pub reason: String,
}

/// Absence of a usable provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{hint}")]
pub struct NoUsableProvider {
    /// Change that would make a provider usable.
    pub hint: String,
}

impl AppState {
    /// Returns the status of every provider.
    pub async fn provider_status(&self) -> BTreeMap<ProviderId, ProviderStatus> {
        self.directory.status().await
    }

    /// Recommends a provider: the preferred one for a prompt, or the least expensive one without a
    /// prompt.
    ///
    /// # Errors
    ///
    /// No provider is usable.
    pub async fn recommend(
        &self,
        prompt: Option<&str>,
        criticality: Option<Criticality>,
    ) -> Result<Recommendation, NoUsableProvider> {
        let usable = self.directory.usable().await;
        let is_ready = |id: &ProviderId| self.directory.get(*id).breaker().would_admit();
        let criticality = criticality.unwrap_or_else(|| self.policy().criticality);
        let (candidates, chosen, reason) = match prompt {
            Some(prompt) => {
                let task = Task::classify(prompt);
                let candidates = candidates(task, criticality);
                let preferred = candidates.iter().copied().find(|id| usable.contains(id) && is_ready(id));
                let reason = format!(
                    "first usable provider for a {} task at {criticality} criticality",
                    task.as_str()
                );
                (candidates, preferred, reason)
            }
            None => {
                let ready = usable.into_iter().filter(is_ready);
                let cheapest = ready.min_by_key(|id| self.prices.of(*id).per_call);
                (&ProviderId::ALL[..], cheapest, "least expensive usable provider".to_owned())
            }
        };
        let Some(provider) = chosen else {
            let hint = self.directory.explain_none_usable(candidates, criticality);
            return Err(NoUsableProvider { hint });
        };
        Ok(Recommendation { provider, cost: self.prices.of(provider).per_call, reason })
    }
}
