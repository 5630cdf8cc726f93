//! Settings of the service, read once at the start.
//!
//! [`Config`] is plain data: everything else takes it, or a part of it, and never reads a setting.
//! [`settings`] declares the settings; values that are not accepted end the start before they are read here.

pub(crate) mod settings;

use std::time::Duration;

use phase6_chassis::{Setting, Settings};

use self::settings::{
    ANSWER_LIMIT, DAILY_BUDGET_LIMIT, HEDGE_AFTER, HF_API_KEY, PROVIDER_MAX_CONCURRENCY, STREAM_LIMIT,
};
use crate::{
    model::{MicroDollars, Price, PriceList, ProviderId},
    providers::{ApiKey, BaseUrl},
};

/// Settings of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Maximum amount that may be spent in a UTC day; `DAILY_BUDGET_LIMIT`, in dollars.
    pub daily_limit: MicroDollars,
    /// Number of concurrent calls of one replica until the provider policy is changed;
    /// `PROVIDER_MAX_CONCURRENCY`.
    pub max_concurrency: u32,
    /// Time limits of calls.
    pub limits: CallLimits,
    /// Prices of every provider; `<PROVIDER>_COST_PER_CALL` in dollars, `<PROVIDER>_INPUT_PRICE` and
    /// `<PROVIDER>_OUTPUT_PRICE` in dollars per million tokens.
    pub prices: PriceList,
    /// Every provider, in the order of [`ProviderId::ALL`].
    pub providers: Vec<ProviderConfig>,
}

/// Time limits of calls to providers.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// Silence of a provider after which a second one is called; `HEDGE_AFTER_MS`.
    pub hedge_after: Duration,
    /// Time from a request to its answer, or to the beginning of a stream; `ANSWER_LIMIT_SECONDS`.
    pub answer: Duration,
    /// Time from the beginning of a stream to its end; `STREAM_LIMIT_SECONDS`.
    pub stream: Duration,
}

/// Settings of one provider.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Provider that is configured.
    pub id: ProviderId,
    /// False if `<PROVIDER>_ENABLED` is `false`.
    pub enabled: bool,
    /// Address of the provider's API; `<PROVIDER>_BASE_URL`.
    pub base_url: BaseUrl,
    /// Model to call; `<PROVIDER>_MODEL`.
    pub model: String,
    /// API key; `<PROVIDER>_API_KEY`.
    pub api_key: Option<ApiKey>,
    /// True if the price of input or output tokens is set.
    pub has_token_price: bool,
}

impl Config {
    /// Reads the settings.
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            daily_limit: amount(settings, &DAILY_BUDGET_LIMIT),
            max_concurrency: settings.integer(&PROVIDER_MAX_CONCURRENCY) as u32,
            limits: CallLimits::from_settings(settings),
            prices: prices(settings),
            providers: ProviderId::ALL.map(|id| ProviderConfig::from_settings(settings, id)).into(),
        }
    }
}

impl CallLimits {
    fn from_settings(settings: &Settings) -> Self {
        Self {
            hedge_after: settings.duration(&HEDGE_AFTER),
            answer: settings.duration(&ANSWER_LIMIT),
            stream: settings.duration(&STREAM_LIMIT),
        }
    }
}

impl ProviderConfig {
    /// Reads the settings of one provider.
    pub fn from_settings(settings: &Settings, id: ProviderId) -> Self {
        let declared = settings::of(id);
        // The original system had a short name for this key.
        let short_name = if id == ProviderId::HuggingFace { settings.secret(&HF_API_KEY) } else { None };
        let api_key = settings.secret(&declared.api_key).or(short_name);
        let base_url = settings.url(&declared.base_url).unwrap_or(id.default_base_url());
        let model = settings.text(&declared.model).unwrap_or(id.default_model());
        Self {
            id,
            enabled: settings.boolean(&declared.enabled),
            base_url: BaseUrl::parse(base_url).expect("settings are validated before they are read"),
            model: model.to_owned(),
            api_key: api_key.map(|key| ApiKey::parse(key).expect("secrets can be sent in a header")),
            has_token_price: settings.is_set(&declared.input_price)
                || settings.is_set(&declared.output_price),
        }
    }
}

fn prices(settings: &Settings) -> PriceList {
    let mut prices = PriceList::default();
    for id in ProviderId::ALL {
        let declared = settings::of(id);
        *prices.of_mut(id) = Price {
            per_call: amount(settings, &declared.cost_per_call),
            input_per_million: amount(settings, &declared.input_price),
            output_per_million: amount(settings, &declared.output_price),
        };
    }
    prices
}

/// Reads an amount of dollars.
fn amount(settings: &Settings, setting: &Setting) -> MicroDollars {
    let dollars = settings.decimal(setting);
    MicroDollars::from_dollars(dollars).expect("the bounds of the setting are those of amounts")
}

#[cfg(test)]
mod tests {
    use phase6_chassis::InvalidSettings;

    use super::{settings::SETTINGS, *};

    fn config(variables: &[(&str, &str)]) -> Result<Config, InvalidSettings> {
        let settings = Settings::new(SETTINGS, &variables.iter().copied().collect())?;
        Ok(Config::from_settings(&settings))
    }

    fn error(name: &str, value: &str) -> String {
        config(&[(name, value)]).unwrap_err().to_string()
    }

    #[test]
    fn every_price_can_be_set() {
        let prices = config(&[
            ("OPENAI_COST_PER_CALL", "0.5"),
            ("OPENAI_INPUT_PRICE", "2"),
            ("OLLAMA_COST_PER_CALL", "0.01"),
        ])
        .unwrap()
        .prices;
        let openai = prices.of(ProviderId::OpenAi);
        assert_eq!(
            (openai.per_call, openai.input_per_million),
            (MicroDollars::new(500_000), MicroDollars::new(2_000_000))
        );
        assert!(!prices.of(ProviderId::Ollama).is_free());
        assert!(prices.of(ProviderId::LocalAi).is_free());
    }

    #[test]
    fn rejects_a_negative_price_by_its_name() {
        let error = error("GEMINI_INPUT_PRICE", "-1");
        assert!(error.contains("GEMINI_INPUT_PRICE") && error.contains("\"-1\""), "{error}");
    }

    #[test]
    fn only_false_disables_a_provider() {
        for (value, enabled) in [("false", false), ("FALSE", false), ("true", true), (" True ", true)] {
            let config = config(&[("OLLAMA_ENABLED", value)]).unwrap();
            assert_eq!(config.providers[ProviderId::Ollama as usize].enabled, enabled, "{value:?}");
        }
        for value in ["0", "no", "off", "fasle"] {
            let error = error("OLLAMA_ENABLED", value);
            assert!(error.contains("OLLAMA_ENABLED") && error.contains("true or false"), "{error}");
        }
    }

    #[test]
    fn errors_show_neither_passwords_nor_keys() {
        let address = error("OLLAMA_BASE_URL", "ftp://user:secret@host");
        assert!(address.contains("ftp://host") && !address.contains("secret"), "{address}");
        let key = error("OPENAI_API_KEY", "sk-12345\nline");
        assert!(key.contains("OPENAI_API_KEY") && !key.contains("12345"), "{key}");
        let shown = format!("{:?}", config(&[("OPENAI_API_KEY", "sk-secret")]).unwrap());
        assert!(!shown.contains("sk-secret"), "{shown}");
    }

    #[test]
    fn a_stream_ends_before_its_reservation_expires() {
        assert!(error("STREAM_LIMIT_SECONDS", "541").contains("from 1 to 540"));
        assert_eq!(config(&[]).unwrap().limits.stream, Duration::from_mins(5));
    }
}
