//! One configured provider, and the reasons for which it may not be usable.
//!
//! | Reason | Source | Valid |
//! |---|---|---|
//! | disabled, or without its API key | settings | always |
//! | API key, account or model rejected | response to a call | five minutes |
//! | local server not running | probe | five seconds |
//! | circuit breaker open, or throttled | earlier calls | until the breaker admits a call |
//!
//! The reasons name the setting that would help and hide credentials.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use phase6_chassis::breaker::{Breaker, Snapshot};

use super::{ApiKey, BaseUrl, Client, client::ProbeError, wire::WireFormat};
use crate::{config::ProviderConfig, model::ProviderId};

/// Time for which the result of a probe is valid.
const PROBE_VALIDITY: Duration = Duration::from_secs(5);
/// Time for which a provider that rejected the API key, account or model is not called.
const REFUSAL_PAUSE: Duration = Duration::from_mins(5);

/// A configured provider. Clones share its state.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    config: ProviderConfig,
    format: WireFormat,
    breaker: Breaker,
    /// Result of the last probe of a local server.
    last_probe: Mutex<Option<Probe>>,
    /// Last rejection of the API key, account or model.
    last_refusal: Mutex<Option<Refusal>>,
}

#[derive(Clone)]
struct Probe {
    at: Instant,
    /// Reason for which the server is not usable, if it is not.
    reason: Option<String>,
}

struct Refusal {
    at: Instant,
    reason: String,
}

/// Status of a provider.
#[derive(Clone, Debug)]
pub struct ProviderStatus {
    /// True if calls can be sent to the provider now.
    pub available: bool,
    /// False if the provider is disabled by its settings.
    pub enabled: bool,
    /// Model that is called.
    pub model: String,
    /// Reason for which the provider is not available, and missing settings.
    pub reason: Option<String>,
    /// Problem of the provider's settings that its operator should know.
    pub warning: Option<String>,
    /// State of the circuit breaker.
    pub breaker: Snapshot,
}

impl Provider {
    /// Creates a provider behind `breaker`.
    pub(super) fn new(config: ProviderConfig, breaker: Breaker) -> Self {
        Self {
            inner: Arc::new(Inner {
                format: WireFormat::of(config.id),
                config,
                breaker,
                last_probe: Mutex::default(),
                last_refusal: Mutex::default(),
            }),
        }
    }

    /// Identity of the provider.
    pub fn id(&self) -> ProviderId {
        self.inner.config.id
    }

    /// Model that is called.
    pub fn model(&self) -> &str {
        &self.inner.config.model
    }

    /// Circuit breaker around calls to the provider.
    pub fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    pub(super) fn format(&self) -> WireFormat {
        self.inner.format
    }

    pub(super) fn base_url(&self) -> &BaseUrl {
        &self.inner.config.base_url
    }

    pub(super) fn api_key(&self) -> Option<&ApiKey> {
        self.inner.config.api_key.as_ref()
    }

    /// True if the provider is enabled and has an API key.
    pub(super) fn has_key(&self) -> bool {
        self.inner.config.enabled && self.inner.config.api_key.is_some()
    }

    /// Name of the setting for the API key, or `None` if the provider needs no key.
    pub(super) fn key_setting(&self) -> Option<String> {
        (!self.id().is_local()).then(|| format!("{}_API_KEY", self.id().setting_prefix()))
    }

    /// Warning about a model that is charged at the price of another one.
    pub(super) fn price_warning(&self) -> Option<String> {
        let ProviderConfig { id, model, has_token_price, .. } = &self.inner.config;
        let (default, prefix) = (id.default_model(), id.setting_prefix());
        (!id.is_local() && model != default && !has_token_price).then(|| {
            format!(
                "calls to model {model:?} are charged at the price of {default:?}: set {prefix}_INPUT_PRICE and \
                 {prefix}_OUTPUT_PRICE, in dollars per million tokens"
            )
        })
    }

    /// Reason for which the settings exclude the provider.
    pub(super) fn excluded_reason(&self) -> Option<String> {
        if !self.inner.config.enabled {
            return Some(format!("disabled by {}_ENABLED", self.id().setting_prefix()));
        }
        match self.key_setting() {
            Some(setting) if self.inner.config.api_key.is_none() => Some(format!("set {setting}")),
            _ => None,
        }
    }

    /// Remembers a rejection of the API key (401, 403), the account (402), or the model or address (404).
    /// For a while the provider is not called: it would refuse again and delay the providers that
    /// answer.
    pub(crate) fn record_refusal(&self, status: u16) {
        let prefix = self.id().setting_prefix();
        let reason = match status {
            401 | 403 => {
                format!("the provider rejected the API key (status {status}): check {prefix}_API_KEY")
            }
            402 => "the account requires a payment (status 402)".to_owned(),
            404 => format!(
                "the provider does not know model {:?} or the address (status 404): check {prefix}_MODEL and {prefix}_BASE_URL",
                self.model()
            ),
            _ => return,
        };
        *self.inner.last_refusal.lock() = Some(Refusal { at: Instant::now(), reason });
    }

    /// Reason for which the provider is not called, as far as it is known without a probe.
    pub(crate) fn known_unusable_reason(&self) -> Option<String> {
        self.excluded_reason().or_else(|| {
            let refusal = self.inner.last_refusal.lock();
            let Refusal { at, reason } = refusal.as_ref()?;
            let remaining = REFUSAL_PAUSE.checked_sub(at.elapsed())?;
            Some(format!("{reason}; next call in {} s", remaining.as_secs() + 1))
        })
    }

    /// Reason for which a local server is not usable. Probes it unless the last probe is still valid.
    pub(crate) async fn not_running_reason(&self, client: &Client) -> Option<String> {
        if !self.id().is_local() {
            return None;
        }
        let last = self.inner.last_probe.lock().clone();
        if let Some(probe) = last.filter(|probe| probe.at.elapsed() < PROBE_VALIDITY) {
            return probe.reason;
        }
        let url = self.base_url();
        let prefix = self.id().setting_prefix();
        let result = client.probe(self, &url.join("/models")).await;
        let reason = result.err().map(|error| match error {
            ProbeError::NoResponse => {
                format!("no server responds at {url}; start one or set {prefix}_BASE_URL")
            }
            ProbeError::Status(404) => {
                format!("{url}/models is not found; if {prefix}_BASE_URL lacks its `/v1`, add it")
            }
            ProbeError::Status(status @ (401 | 403)) => {
                format!("{url} rejected the API key (status {status}); set {prefix}_API_KEY")
            }
            ProbeError::Status(status) => format!("{url}/models responds with status {status}"),
        });
        *self.inner.last_probe.lock() = Some(Probe { at: Instant::now(), reason: reason.clone() });
        reason
    }

    /// Reason for which the provider is not usable, apart from its circuit breaker. Probes a local
    /// server if necessary.
    pub(super) async fn unusable_reason(&self, client: &Client) -> Option<String> {
        match self.known_unusable_reason() {
            Some(reason) => Some(reason),
            None => self.not_running_reason(client).await,
        }
    }

    /// Reason for which the provider was not usable when it was last probed.
    pub(super) fn last_unusable_reason(&self) -> Option<String> {
        self.known_unusable_reason().or_else(|| self.inner.last_probe.lock().as_ref()?.reason.clone())
    }

    /// Status of the provider, given the result of [`Provider::unusable_reason`].
    pub(super) fn status(&self, unusable_reason: Option<String>) -> ProviderStatus {
        let breaker = self.breaker();
        let reason = unusable_reason.or_else(|| {
            let paused = !breaker.would_admit();
            paused.then(|| "paused: its circuit breaker is open, or it throttled a request".to_owned())
        });
        ProviderStatus {
            available: reason.is_none(),
            enabled: self.inner.config.enabled,
            model: self.model().to_owned(),
            reason,
            warning: self.price_warning(),
            breaker: breaker.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use phase6_chassis::{Enforcer, Settings};

    use super::*;
    use crate::config::settings::SETTINGS;

    #[test]
    fn warns_of_another_model_without_its_price() {
        let warning = |variables: &[(&str, &str)]| {
            let settings = Settings::new(SETTINGS, &variables.iter().copied().collect()).unwrap();
            let config = ProviderConfig::from_settings(&settings, ProviderId::OpenAi);
            Provider::new(config, Breaker::new("openai", Enforcer::default().breaker())).price_warning()
        };
        let text = warning(&[("OPENAI_MODEL", "gpt-big")]).unwrap();
        assert!(text.contains("gpt-big") && text.contains("OPENAI_INPUT_PRICE"), "{text}");
        assert_eq!(warning(&[("OPENAI_MODEL", "gpt-big"), ("OPENAI_INPUT_PRICE", "9")]), None);
        assert_eq!(warning(&[]), None);
    }
}
