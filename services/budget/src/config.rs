//! Settings of the service, read once at the start.
//!
//! [`Config`] is plain data: everything else takes it, or a part of it, and never reads a setting.
//! A setting without a usable value ends the start with an error that names the setting, its value
//! and what is accepted. API keys never appear in an error.

use std::time::Duration;

use phase6_chassis::{Settings, StartError};

use crate::{
    model::{MicroDollars, Price, PriceList, ProviderId, policy::MAX_CONCURRENCY},
    providers::{ApiKey, BaseUrl},
    store::RESERVATION_LIFETIME,
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

/// Default of `DAILY_BUDGET_LIMIT`.
const DAILY_LIMIT: MicroDollars = MicroDollars::new(5_000_000);
/// Default of `PROVIDER_MAX_CONCURRENCY`.
const CONCURRENCY: u32 = 4;
/// Default of `HEDGE_AFTER_MS`.
const HEDGE_AFTER: Duration = Duration::from_millis(2_500);
/// Largest value of `HEDGE_AFTER_MS`.
const MAX_HEDGE_AFTER: Duration = Duration::from_mins(1);
/// Default and largest value of `ANSWER_LIMIT_SECONDS`. The chassis gives a handler one minute; the
/// rest is for recording, caching and sending what was paid for.
const ANSWER_LIMIT: Duration = Duration::from_secs(45);
/// Default of `STREAM_LIMIT_SECONDS`.
const STREAM_LIMIT: Duration = Duration::from_mins(5);

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// A setting has no usable value.
    pub fn from_settings(settings: &Settings) -> Result<Self, StartError> {
        let concurrency = settings.whole("PROVIDER_MAX_CONCURRENCY", 1, u64::from(MAX_CONCURRENCY))?;
        Ok(Self {
            daily_limit: amount(settings, "DAILY_BUDGET_LIMIT")?.unwrap_or(DAILY_LIMIT),
            max_concurrency: concurrency.map_or(CONCURRENCY, |calls| calls as u32),
            limits: CallLimits::from_settings(settings)?,
            prices: prices(settings)?,
            providers: ProviderId::ALL
                .into_iter()
                .map(|id| ProviderConfig::from_settings(settings, id))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl CallLimits {
    fn from_settings(settings: &Settings) -> Result<Self, StartError> {
        let hedge_after = settings.whole("HEDGE_AFTER_MS", 1, MAX_HEDGE_AFTER.as_millis() as u64)?;
        let answer = settings.whole("ANSWER_LIMIT_SECONDS", 2, ANSWER_LIMIT.as_secs())?;
        // A stream must end before its reservation expires.
        let longest_stream = RESERVATION_LIFETIME.as_secs() - 60;
        let stream = settings.whole("STREAM_LIMIT_SECONDS", 1, longest_stream)?;
        Ok(Self {
            hedge_after: hedge_after.map_or(HEDGE_AFTER, Duration::from_millis),
            answer: answer.map_or(ANSWER_LIMIT, Duration::from_secs),
            stream: stream.map_or(STREAM_LIMIT, Duration::from_secs),
        })
    }
}

impl ProviderConfig {
    /// Reads the settings of one provider.
    ///
    /// # Errors
    ///
    /// A setting has no usable value.
    pub fn from_settings(settings: &Settings, id: ProviderId) -> Result<Self, StartError> {
        let name = |suffix: &str| setting_name(id, suffix);
        let get = |suffix: &str| settings.get(&name(suffix));
        let base_url = BaseUrl::parse(get("BASE_URL").unwrap_or(id.default_base_url()))
            .map_err(|error| unusable(name("BASE_URL"), &error))?;
        // The earlier system had a short name for this key.
        let short_name = if id == ProviderId::HuggingFace { settings.get("HF_API_KEY") } else { None };
        let api_key = get("API_KEY")
            .or(short_name)
            .map(|key| ApiKey::parse(key).map_err(|error| unusable(name("API_KEY"), &error)))
            .transpose()?;
        let enabled = match get("ENABLED").map(|value| value.trim().to_ascii_lowercase()).as_deref() {
            None | Some("true") => true,
            Some("false") => false,
            Some(other) => {
                return Err(unusable(name("ENABLED"), &format!("it is {other:?}; accepted: true or false")));
            }
        };
        Ok(Self {
            id,
            enabled,
            base_url,
            api_key,
            model: get("MODEL").unwrap_or(id.default_model()).to_owned(),
            has_token_price: get("INPUT_PRICE").is_some() || get("OUTPUT_PRICE").is_some(),
        })
    }
}

fn prices(settings: &Settings) -> Result<PriceList, StartError> {
    let mut prices = PriceList::default();
    for id in ProviderId::ALL {
        let Price { per_call, input_per_million, output_per_million } = prices.of_mut(id);
        for (suffix, price) in [
            ("COST_PER_CALL", per_call),
            ("INPUT_PRICE", input_per_million),
            ("OUTPUT_PRICE", output_per_million),
        ] {
            if let Some(amount) = amount(settings, &setting_name(id, suffix))? {
                *price = amount;
            }
        }
    }
    Ok(prices)
}

/// Reads an amount of dollars.
fn amount(settings: &Settings, name: &str) -> Result<Option<MicroDollars>, StartError> {
    let Some(text) = settings.get(name) else { return Ok(None) };
    match text.trim().parse().ok().and_then(MicroDollars::from_dollars) {
        Some(amount) => Ok(Some(amount)),
        None => {
            let reason = format!("it is {text:?}; accepted: dollars from 0 to 1000000000, such as 0.25");
            Err(unusable(name.to_owned(), &reason))
        }
    }
}

fn setting_name(id: ProviderId, suffix: &str) -> String {
    format!("{}_{suffix}", id.setting_prefix())
}

fn unusable(name: String, reason: &impl ToString) -> StartError {
    StartError::Setting { name, accepted: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(settings: &[(&str, &str)]) -> Settings {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn config(values: &[(&str, &str)]) -> Result<Config, StartError> {
        Config::from_settings(&settings(values))
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
            let settings = settings(&[("OLLAMA_ENABLED", value)]);
            let config = ProviderConfig::from_settings(&settings, ProviderId::Ollama).unwrap();
            assert_eq!(config.enabled, enabled, "{value:?}");
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
        let key = error("OPENAI_API_KEY", "sk-secret\nline");
        assert!(key.contains("OPENAI_API_KEY") && !key.contains("secret"), "{key}");
        let shown = format!("{:?}", config(&[("OPENAI_API_KEY", "sk-secret")]).unwrap());
        assert!(!shown.contains("sk-secret"), "{shown}");
    }

    #[test]
    fn a_stream_ends_before_its_reservation_expires() {
        assert!(error("STREAM_LIMIT_SECONDS", "541").contains("from 1 to 540"));
        assert_eq!(config(&[]).unwrap().limits.stream, Duration::from_mins(5));
    }
}
