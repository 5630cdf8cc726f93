//! Declarations of the settings. Defaults of providers come from the tables of the model.

use phase6_chassis::{Setting, SettingKind, TimeUnit};

use crate::{
    model::{MicroDollars, Price, ProviderId, policy::MAX_CONCURRENCY},
    providers::BaseUrl,
    store::RESERVATION_LIFETIME,
};

/// Largest accepted amount, in dollars.
const MAX_DOLLARS: f64 = dollars(MicroDollars::MAX);
/// Longest time for an answer, in seconds. Shorter than the time limit of a handler, 60 s: a paid answer must
/// still be recorded, cached and sent.
const MAX_ANSWER_SECONDS: u64 = 45;
/// Longest time for a stream, in seconds: it must end before its reservation expires.
const MAX_STREAM_SECONDS: u64 = RESERVATION_LIFETIME.as_secs() - 60;

/// Maximum amount that may be spent in a day.
pub(crate) const DAILY_BUDGET_LIMIT: Setting = Setting {
    name: "DAILY_BUDGET_LIMIT",
    kind: SettingKind::Decimal { unit: "dollars", min: 0.0, max: MAX_DOLLARS, default: 5.0 },
    about: "Maximum amount that may be spent in a UTC day",
};

/// Number of concurrent calls until the provider policy changes it.
pub(crate) const PROVIDER_MAX_CONCURRENCY: Setting = Setting {
    name: "PROVIDER_MAX_CONCURRENCY",
    kind: SettingKind::Integer { min: 1, max: MAX_CONCURRENCY as u64, default: 4 },
    about: "Number of concurrent calls to providers per replica, until the provider policy changes it",
};

/// Silence of a provider after which a second one is called.
pub(crate) const HEDGE_AFTER: Setting = Setting {
    name: "HEDGE_AFTER_MS",
    kind: SettingKind::Duration { unit: TimeUnit::Milliseconds, min: 1, max: 60_000, default: 2_500 },
    about: "Silence of a provider after which a second one is called",
};

/// Longest time from a request to its answer.
pub(crate) const ANSWER_LIMIT: Setting = Setting {
    name: "ANSWER_LIMIT_SECONDS",
    kind: SettingKind::Duration {
        unit: TimeUnit::Seconds,
        min: 2,
        max: MAX_ANSWER_SECONDS,
        default: MAX_ANSWER_SECONDS,
    },
    about: "Longest time from a request to its answer, or to the beginning of a stream",
};

/// Longest time from the beginning of a stream to its end.
pub(crate) const STREAM_LIMIT: Setting = Setting {
    name: "STREAM_LIMIT_SECONDS",
    kind: SettingKind::Duration { unit: TimeUnit::Seconds, min: 1, max: MAX_STREAM_SECONDS, default: 300 },
    about: "Longest time from the beginning of a stream to its end",
};

/// Former name of the API key of Hugging Face.
pub(crate) const HF_API_KEY: Setting = Setting {
    name: "HF_API_KEY",
    kind: SettingKind::Secret { min_length: 0 },
    about: "Former name of HUGGINGFACE_API_KEY, read if that is absent",
};

const GENERAL: [Setting; 6] =
    [DAILY_BUDGET_LIMIT, PROVIDER_MAX_CONCURRENCY, HEDGE_AFTER, ANSWER_LIMIT, STREAM_LIMIT, HF_API_KEY];

/// Settings of one provider.
#[derive(Clone, Copy)]
pub(crate) struct ProviderSettings {
    pub(crate) enabled: Setting,
    pub(crate) api_key: Setting,
    pub(crate) base_url: Setting,
    pub(crate) model: Setting,
    pub(crate) cost_per_call: Setting,
    pub(crate) input_price: Setting,
    pub(crate) output_price: Setting,
}

/// Declares the settings of a provider, whose names begin with `$prefix`.
macro_rules! provider_settings {
    ($id:ident, $prefix:literal, $name:literal) => {
        ProviderSettings {
            enabled: Setting {
                name: concat!($prefix, "_ENABLED"),
                kind: SettingKind::Boolean { default: true },
                about: concat!("False disables ", $name),
            },
            api_key: Setting {
                name: concat!($prefix, "_API_KEY"),
                kind: SettingKind::Secret { min_length: 0 },
                about: concat!("API key of ", $name),
            },
            base_url: Setting {
                name: concat!($prefix, "_BASE_URL"),
                kind: SettingKind::Url {
                    default: Some(ProviderId::$id.default_base_url()),
                    is_valid: |url| BaseUrl::parse(url).is_ok(),
                },
                about: concat!("Address of the API of ", $name),
            },
            model: Setting {
                name: concat!($prefix, "_MODEL"),
                kind: SettingKind::Text { default: Some(ProviderId::$id.default_model()) },
                about: concat!("Model of ", $name, " that is called"),
            },
            cost_per_call: price(
                concat!($prefix, "_COST_PER_CALL"),
                Price::list_price(ProviderId::$id).per_call,
                concat!("Price of a call to ", $name, " whose tokens have no price or are not known"),
            ),
            input_price: price(
                concat!($prefix, "_INPUT_PRICE"),
                Price::list_price(ProviderId::$id).input_per_million,
                concat!("Price of ", $name, " for a million input tokens"),
            ),
            output_price: price(
                concat!($prefix, "_OUTPUT_PRICE"),
                Price::list_price(ProviderId::$id).output_per_million,
                concat!("Price of ", $name, " for a million output tokens"),
            ),
        }
    };
}

const fn dollars(amount: MicroDollars) -> f64 {
    amount.get() as f64 / 1e6
}

const fn price(name: &'static str, default: MicroDollars, about: &'static str) -> Setting {
    let default = dollars(default);
    Setting {
        name,
        kind: SettingKind::Decimal { unit: "dollars", min: 0.0, max: MAX_DOLLARS, default },
        about,
    }
}

/// Settings of every provider, in the order of [`ProviderId::ALL`].
const PROVIDERS: [ProviderSettings; ProviderId::ALL.len()] = [
    provider_settings!(OpenAi, "OPENAI", "OpenAI"),
    provider_settings!(DeepSeek, "DEEPSEEK", "DeepSeek"),
    provider_settings!(Anthropic, "ANTHROPIC", "Anthropic"),
    provider_settings!(Gemini, "GEMINI", "Gemini"),
    provider_settings!(HuggingFace, "HUGGINGFACE", "Hugging Face"),
    provider_settings!(Ollama, "OLLAMA", "Ollama"),
    provider_settings!(LocalAi, "LOCALAI", "LocalAI"),
];

static PROVIDER_TABLE: [ProviderSettings; ProviderId::ALL.len()] = PROVIDERS;

/// Settings of a provider.
pub(crate) fn of(id: ProviderId) -> &'static ProviderSettings {
    &PROVIDER_TABLE[id as usize]
}

const PER_PROVIDER: usize = 7;

impl ProviderSettings {
    const fn all(&self) -> [Setting; PER_PROVIDER] {
        [
            self.enabled,
            self.api_key,
            self.base_url,
            self.model,
            self.cost_per_call,
            self.input_price,
            self.output_price,
        ]
    }
}

/// All settings.
pub(crate) const SETTINGS: &[Setting] = &all();

const fn all() -> [Setting; GENERAL.len() + PROVIDERS.len() * PER_PROVIDER] {
    let mut all = [DAILY_BUDGET_LIMIT; GENERAL.len() + PROVIDERS.len() * PER_PROVIDER];
    let mut index = 0;
    while index < all.len() {
        all[index] = match index.checked_sub(GENERAL.len()) {
            None => GENERAL[index],
            Some(rest) => PROVIDERS[rest / PER_PROVIDER].all()[rest % PER_PROVIDER],
        };
        index += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_a_provider_have_its_prefix() {
        for id in ProviderId::ALL {
            for setting in of(id).all() {
                assert!(setting.name.starts_with(&format!("{}_", id.setting_prefix())), "{}", setting.name);
            }
        }
    }

    #[test]
    fn every_setting_is_declared_once() {
        let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
