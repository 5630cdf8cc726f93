//! Which providers there are here, and which can be used now.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use phase6_chassis::{
    Kit, Settings, StartError,
    breaker::{Breaker, Snapshot},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Client, ProviderId, Wire, client::ApiKey};

/// For how long it is believed that a local server answers, or does not.
const BELIEVED: Duration = Duration::from_secs(5);

/// A provider as it is set up here.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    id: ProviderId,
    wire: Wire,
    base_url: String,
    model: String,
    key: Option<ApiKey>,
    /// The setting that holds its key; none: it needs none.
    key_setting: Option<String>,
    enabled: bool,
    /// Where a server that needs no key says that it is there.
    probe: Option<String>,
    seen: Mutex<Option<(Instant, bool)>>,
    breaker: Breaker,
}

/// What is shown of a provider.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// Whether calls can be sent to it now.
    pub available: bool,
    /// Whether it is switched on.
    pub enabled: bool,
    /// The model it is asked for.
    pub model: String,
    /// Why it is not available, and what would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its circuit breaker.
    #[schema(value_type = Object)]
    pub circuit_breaker: Snapshot,
}

impl Provider {
    /// Which one it is.
    pub fn id(&self) -> ProviderId {
        self.inner.id
    }

    /// The model it is asked for.
    pub fn model(&self) -> &str {
        &self.inner.model
    }

    /// The breaker around it.
    pub fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    pub(super) fn wire(&self) -> Wire {
        self.inner.wire
    }

    pub(super) fn base_url(&self) -> &str {
        &self.inner.base_url
    }

    pub(super) fn key(&self) -> Option<&ApiKey> {
        self.inner.key.as_ref()
    }

    /// Why it cannot be used at all, from its settings alone.
    fn missing(&self) -> Option<String> {
        let inner = &*self.inner;
        if !inner.enabled {
            return Some(format!("switched off by {}_ENABLED", inner.id.prefix()));
        }
        match &inner.key_setting {
            Some(setting) if inner.key.is_none() => Some(format!("set {setting}")),
            _ => None,
        }
    }

    /// Whether a server that needs no key answers; remembered for a few seconds.
    async fn is_there(&self, client: &Client) -> bool {
        let Some(probe) = &self.inner.probe else { return true };
        let seen = *self.inner.seen.lock();
        if let Some((_, there)) = seen.filter(|(at, _)| at.elapsed() < BELIEVED) {
            return there;
        }
        let there = client.answers(probe).await;
        *self.inner.seen.lock() = Some((Instant::now(), there));
        there
    }

    async fn reason(&self, client: &Client) -> Option<String> {
        if let Some(missing) = self.missing() {
            return Some(missing);
        }
        if !self.is_there(client).await {
            let setting = format!("{}_BASE_URL", self.inner.id.prefix());
            return Some(format!("no server answers at {}; start one or set {setting}", self.inner.base_url));
        }
        None
    }
}

/// All providers.
#[derive(Clone)]
pub struct Directory {
    providers: Arc<[Provider]>,
    client: Client,
}

impl Directory {
    /// The providers as the settings describe them.
    ///
    /// # Errors
    ///
    /// A setting has no usable value.
    pub fn new(kit: &Kit, client: Client) -> Result<Self, StartError> {
        let providers = ProviderId::ALL
            .into_iter()
            .map(|id| set_up(id, &kit.settings, kit.breaker(id.as_str())))
            .collect::<Result<Vec<_>, _>>()?;
        for provider in providers.iter().filter(|provider| provider.missing().is_none()) {
            kit.show_breaker(provider.breaker());
        }
        Ok(Self { providers: providers.into(), client })
    }

    /// The HTTP client for all of them.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One of them.
    pub fn get(&self, id: ProviderId) -> &Provider {
        &self.providers[id as usize]
    }

    /// Those that are set up, and, where they need no key, answer. Their breakers are not asked.
    pub async fn usable(&self) -> Vec<ProviderId> {
        let reasons = join_all(self.providers.iter().map(|provider| provider.reason(&self.client))).await;
        let usable = self.providers.iter().zip(reasons).filter(|(_, reason)| reason.is_none());
        usable.map(|(provider, _)| provider.id()).collect()
    }

    /// What is shown of each.
    pub async fn status(&self) -> BTreeMap<&'static str, ProviderStatus> {
        let reasons = join_all(self.providers.iter().map(|provider| provider.reason(&self.client))).await;
        let shown = |(provider, reason): (&Provider, Option<String>)| {
            let breaker = provider.breaker();
            let waiting = (reason.is_none() && !breaker.would_admit())
                .then(|| "not called for now: its circuit breaker is open or it asked to wait".to_owned());
            let status = ProviderStatus {
                available: reason.is_none() && waiting.is_none(),
                enabled: provider.inner.enabled,
                model: provider.model().to_owned(),
                reason: reason.or(waiting),
                circuit_breaker: breaker.snapshot(),
            };
            (provider.id().as_str(), status)
        };
        self.providers.iter().zip(reasons).map(shown).collect()
    }

    /// What to set so that there is a provider.
    pub fn how_to_get_one(&self) -> String {
        let keys: Vec<_> =
            self.providers.iter().filter_map(|provider| provider.inner.key_setting.clone()).collect();
        let local = self.providers.iter().filter(|provider| provider.inner.probe.is_some());
        let local: Vec<_> =
            local.map(|provider| format!("{} at {}", provider.id(), provider.base_url())).collect();
        format!("no AI provider is usable: set one of {}, or start {}", keys.join(", "), local.join(" or "))
    }
}

fn set_up(id: ProviderId, settings: &Settings, breaker: Breaker) -> Result<Provider, StartError> {
    let prefix = id.prefix();
    let setting = |suffix: &str| settings.get(&format!("{prefix}_{suffix}"));
    let (wire, address, model) = defaults(id);
    let base_url = setting("BASE_URL").unwrap_or(address).trim().trim_end_matches('/').to_owned();
    if !["http://", "https://"].iter().any(|scheme| base_url.starts_with(scheme)) {
        let accepted =
            format!("it is {base_url:?}; accepted: an address that begins with http:// or https://");
        return Err(StartError::Setting { name: format!("{prefix}_BASE_URL"), accepted });
    }
    let local = matches!(id, ProviderId::Ollama | ProviderId::LocalAi);
    let key_setting = (!local).then(|| format!("{prefix}_API_KEY"));
    // The short name that the system before this one had.
    let short = if id == ProviderId::HuggingFace { settings.get("HF_API_KEY") } else { None };
    let key = match setting("API_KEY").or(short) {
        None => None,
        Some(key) => match ApiKey::new(wire, key) {
            Some(key) => Some(key),
            None => {
                let accepted = "it holds what cannot be sent in a header".to_owned();
                return Err(StartError::Setting { name: format!("{prefix}_API_KEY"), accepted });
            }
        },
    };
    let enabled = !setting("ENABLED").is_some_and(|value| value.eq_ignore_ascii_case("false"));
    let probe = local.then(|| format!("{base_url}/models"));
    Ok(Provider {
        inner: Arc::new(Inner {
            id,
            wire,
            model: setting("MODEL").unwrap_or(model).to_owned(),
            key,
            key_setting,
            enabled,
            probe,
            seen: Mutex::new(None),
            breaker,
            base_url,
        }),
    })
}

/// How each is spoken to, where it is, and the model it is asked for.
fn defaults(id: ProviderId) -> (Wire, &'static str, &'static str) {
    match id {
        ProviderId::OpenAi => (Wire::OpenAi, "https://api.openai.com/v1", "gpt-4o-mini"),
        ProviderId::DeepSeek => (Wire::OpenAi, "https://api.deepseek.com/v1", "deepseek-chat"),
        ProviderId::Anthropic => (Wire::Anthropic, "https://api.anthropic.com", "claude-3-5-haiku-latest"),
        ProviderId::Gemini => (Wire::Gemini, "https://generativelanguage.googleapis.com", "gemini-2.0-flash"),
        ProviderId::HuggingFace => {
            (Wire::OpenAi, "https://router.huggingface.co/v1", "meta-llama/Llama-3.1-8B-Instruct")
        }
        ProviderId::Ollama => (Wire::OpenAi, "http://127.0.0.1:11434/v1", "llama3.2"),
        ProviderId::LocalAi => (Wire::OpenAi, "http://127.0.0.1:8080/v1", "gpt-4"),
    }
}
