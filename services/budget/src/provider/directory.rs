//! Which providers there are here, and which can be used now.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use phase6_chassis::{
    Kit, Settings,
    breaker::{Breaker, Snapshot},
    without_credentials,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Client, ProviderId, Wire,
    client::{ApiKey, NotThere},
    openai::{DEEPSEEK_MODEL, OPENAI_MODEL},
};
use crate::{
    routing::Criticality,
    settings::{self, HF_API_KEY},
};

/// For how long it is believed that a local server answers, or does not.
const BELIEVED: Duration = Duration::from_secs(5);
/// For how long a provider that refused our key or model is left alone.
const LEFT_ALONE: Duration = Duration::from_mins(5);

/// A provider as it is set up here.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    id: ProviderId,
    wire: Wire,
    base_url: String,
    /// The address without what must not be shown.
    shown_url: String,
    model: String,
    /// What its operator should know about its price.
    warning: Option<String>,
    key: Option<ApiKey>,
    /// The setting that holds its key; none: it needs none.
    key_setting: Option<String>,
    enabled: bool,
    /// Where a server that needs no key says that it is there.
    probe: Option<String>,
    /// Why it could not be used when it was last probed, if so.
    seen: Mutex<Option<(Instant, Option<String>)>>,
    /// When and why it refused our key or model.
    refused: Mutex<Option<(Instant, String)>>,
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
    /// What its operator should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
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

    /// Takes note that it refused our key (401, 403) or our account (402), or does not know what it was
    /// asked for (404).
    /// Another call would be refused, too, and be in the way of providers that answer.
    pub(crate) fn refused(&self, status: u16) {
        let prefix = self.inner.id.prefix();
        let what = match status {
            401 | 403 => format!("it refused our key (status {status}): check {prefix}_API_KEY"),
            402 => "it wants our account to be paid (status 402)".to_owned(),
            404 => format!(
                "it does not know model {:?} or the address (status 404): check {prefix}_MODEL and {prefix}_BASE_URL",
                self.inner.model
            ),
            _ => return,
        };
        *self.inner.refused.lock() = Some((Instant::now(), what));
    }

    /// Why it is not asked, as far as that is known without asking.
    pub(crate) fn unusable(&self) -> Option<String> {
        self.missing().or_else(|| {
            let refused = self.inner.refused.lock();
            let (at, what) = refused.as_ref()?;
            let left = LEFT_ALONE.checked_sub(at.elapsed())?;
            Some(format!("{what}; asked again in {} s", left.as_secs() + 1))
        })
    }

    /// Why a local server cannot be used; remembered for a few seconds.
    pub(crate) async fn absent(&self, client: &Client) -> Option<String> {
        let probe = self.inner.probe.as_ref()?;
        let seen = self.inner.seen.lock().clone();
        if let Some((_, reason)) = seen.filter(|(at, _)| at.elapsed() < BELIEVED) {
            return reason;
        }
        let Inner { id, shown_url, .. } = &*self.inner;
        let prefix = id.prefix();
        let reason = client.probe(self, probe).await.err().map(|why| match why {
            NotThere::Silent => {
                format!("no server answers at {shown_url}; start one or set {prefix}_BASE_URL")
            }
            NotThere::Status(404) => {
                format!("{shown_url}/models is not found; if {prefix}_BASE_URL lacks its `/v1`, add it")
            }
            NotThere::Status(status @ (401 | 403)) => {
                format!("{shown_url} refused our key (status {status}); set {prefix}_API_KEY")
            }
            NotThere::Status(status) => format!("{shown_url}/models answers with status {status}"),
        });
        *self.inner.seen.lock() = Some((Instant::now(), reason.clone()));
        reason
    }

    async fn reason(&self, client: &Client) -> Option<String> {
        match self.unusable() {
            Some(reason) => Some(reason),
            None => self.absent(client).await,
        }
    }

    /// The same from what is remembered.
    fn last_reason(&self) -> Option<String> {
        self.unusable().or_else(|| self.inner.seen.lock().as_ref()?.1.clone())
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
    pub fn new(kit: &Kit, client: Client) -> Self {
        let providers = ProviderId::ALL.map(|id| set_up(id, &kit.settings, kit.breaker(id.as_str())));
        for provider in providers.iter().filter(|provider| provider.missing().is_none()) {
            kit.show_breaker(provider.breaker());
            if let Some(warning) = &provider.inner.warning {
                tracing::warn!(provider = %provider.id(), "{warning}");
            }
        }
        Self { providers: providers.into(), client }
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
                warning: provider.inner.warning.clone(),
                circuit_breaker: breaker.snapshot(),
            };
            (provider.id().as_str(), status)
        };
        self.providers.iter().zip(reasons).map(shown).collect()
    }

    /// Why none of the providers that may be asked can be used, and what would help.
    pub fn why_none(&self, asked: &[ProviderId], criticality: Criticality) -> String {
        let has_key = |provider: &Provider| provider.inner.enabled && provider.inner.key.is_some();
        if asked.len() == ProviderId::ALL.len() && !self.providers.iter().any(has_key) {
            return self.how_to_get_one();
        }
        let reason = |id: &ProviderId| {
            let reason = self.get(*id).last_reason();
            format!("{id}: {}", reason.unwrap_or_else(|| "cannot be used now".to_owned()))
        };
        let reasons = asked.iter().map(reason).collect::<Vec<_>>().join("; ");
        match asked {
            [_] => reasons,
            _ => format!("none of the providers for {criticality} criticality is usable: {reasons}"),
        }
    }

    /// What to set so that there is a provider.
    fn how_to_get_one(&self) -> String {
        let keys: Vec<_> =
            self.providers.iter().filter_map(|provider| provider.inner.key_setting.clone()).collect();
        let local = self.providers.iter().filter(|provider| provider.inner.probe.is_some());
        let local: Vec<_> =
            local.map(|provider| format!("{} at {}", provider.id(), provider.inner.shown_url)).collect();
        format!("no AI provider is usable: set one of {}, or start {}", keys.join(", "), local.join(" or "))
    }
}

fn set_up(id: ProviderId, settings: &Settings, breaker: Breaker) -> Provider {
    let prefix = id.prefix();
    let declared = settings::provider(id);
    let base_url = settings.url(&declared.base_url).unwrap_or_default().trim_end_matches('/').to_owned();
    let shown_url = without_credentials(&base_url);
    let local = matches!(id, ProviderId::Ollama | ProviderId::LocalAi);
    let key_setting = (!local).then(|| format!("{prefix}_API_KEY"));
    // The short name that the system before this one had.
    let short = if id == ProviderId::HuggingFace { settings.secret(&HF_API_KEY) } else { None };
    let wire = wire(id);
    let key = settings.secret(&declared.api_key).or(short);
    let key = key.map(|key| ApiKey::new(wire, key).expect("secrets can be sent in a header"));
    let enabled = settings.boolean(&declared.enabled);
    let probe = local.then(|| format!("{base_url}/models"));
    let model = default_model(id);
    let asked = settings.text(&declared.model).unwrap_or_default().to_owned();
    let priced = settings.is_set(&declared.input_price) || settings.is_set(&declared.output_price);
    let warning = (!local && asked != model && !priced).then(|| {
        format!(
            "calls to model {asked:?} are charged at the price of {model:?}: set {prefix}_INPUT_PRICE and \
             {prefix}_OUTPUT_PRICE, in dollars for a million tokens"
        )
    });
    Provider {
        inner: Arc::new(Inner {
            id,
            wire,
            model: asked,
            warning,
            key,
            key_setting,
            enabled,
            probe,
            seen: Mutex::default(),
            refused: Mutex::default(),
            breaker,
            base_url,
            shown_url,
        }),
    }
}

/// How each is spoken to.
fn wire(id: ProviderId) -> Wire {
    match id {
        ProviderId::Anthropic => Wire::Anthropic,
        ProviderId::Gemini => Wire::Gemini,
        _ => Wire::OpenAi,
    }
}

/// Where each is.
pub(crate) const fn default_address(id: ProviderId) -> &'static str {
    match id {
        ProviderId::OpenAi => "https://api.openai.com/v1",
        ProviderId::DeepSeek => "https://api.deepseek.com",
        ProviderId::Anthropic => "https://api.anthropic.com",
        ProviderId::Gemini => "https://generativelanguage.googleapis.com",
        ProviderId::HuggingFace => "https://router.huggingface.co/v1",
        ProviderId::Ollama => "http://127.0.0.1:11434/v1",
        ProviderId::LocalAi => "http://127.0.0.1:8080/v1",
    }
}

/// The model each is asked for: a cheap one that can be called on 2026-11-24. Their prices are in the price
/// list.
pub(crate) const fn default_model(id: ProviderId) -> &'static str {
    match id {
        ProviderId::OpenAi => OPENAI_MODEL,
        ProviderId::DeepSeek => DEEPSEEK_MODEL,
        ProviderId::Anthropic => "claude-haiku-4-5",
        ProviderId::Gemini => "gemini-3.5-flash-lite",
        ProviderId::HuggingFace => "meta-llama/Llama-3.1-8B-Instruct",
        ProviderId::Ollama => "llama3.2",
        ProviderId::LocalAi => "gpt-4",
    }
}

#[cfg(test)]
mod tests {
    use phase6_chassis::{Enforcer, InvalidSettings};

    use super::*;

    fn provider(id: ProviderId, variables: &[(&str, &str)]) -> Result<Provider, InvalidSettings> {
        let settings = Settings::new(settings::SETTINGS, &variables.iter().copied().collect())?;
        Ok(set_up(id, &settings, Breaker::new(id.as_str(), Enforcer::default().breaker())))
    }

    #[test]
    fn a_provider_is_switched_off_by_false_and_by_nothing_else() {
        for (value, enabled) in [("false", false), ("FALSE", false), ("true", true), (" True ", true)] {
            let provider = provider(ProviderId::Ollama, &[("OLLAMA_ENABLED", value)]).unwrap();
            assert_eq!(provider.inner.enabled, enabled, "{value:?}");
        }
        for value in ["0", "no", "off", "fasle"] {
            let error = provider(ProviderId::Ollama, &[("OLLAMA_ENABLED", value)]).err().unwrap().to_string();
            assert!(error.contains("OLLAMA_ENABLED") && error.contains("true or false"), "{error}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_never_shown() {
        let bad = provider(ProviderId::Ollama, &[("OLLAMA_BASE_URL", "ftp://user:secret@host")]);
        let error = bad.err().unwrap().to_string();
        assert!(error.contains("ftp://host") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn another_model_without_its_price_is_told() {
        let warning =
            |settings: &[(&str, &str)]| provider(ProviderId::OpenAi, settings).unwrap().inner.warning.clone();
        let told = warning(&[("OPENAI_MODEL", "gpt-big")]).unwrap();
        assert!(told.contains("gpt-big") && told.contains("OPENAI_INPUT_PRICE"), "{told}");
        assert_eq!(warning(&[("OPENAI_MODEL", "gpt-big"), ("OPENAI_INPUT_PRICE", "9")]), None);
        assert_eq!(warning(&[]), None);
    }
}
