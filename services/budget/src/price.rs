//! The one price list: by token where a provider counts them, by call where it does not.

use phase6_chassis::{Setting, Settings};
use serde::Serialize;

use crate::{
    money::Micros,
    provider::{ProviderId, Usage},
    settings,
};

/// What a provider costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// For a call whose tokens are not known.
    pub per_call: Micros,
    /// For a million tokens that are sent.
    pub input_per_million: Micros,
    /// For a million tokens that come back.
    pub output_per_million: Micros,
}

impl Price {
    const FREE: Self = Self::new(0, 0, 0);

    const fn new(per_call: i64, input_per_million: i64, output_per_million: i64) -> Self {
        Self {
            per_call: Micros::new(per_call),
            input_per_million: Micros::new(input_per_million),
            output_per_million: Micros::new(output_per_million),
        }
    }

    /// Whether nothing is ever charged.
    pub fn is_free(&self) -> bool {
        *self == Self::FREE
    }

    /// Whether its tokens have a price; if not, a call has.
    pub fn is_by_token(&self) -> bool {
        self.input_per_million > Micros::ZERO || self.output_per_million > Micros::ZERO
    }

    /// What a call has cost: by its tokens if they are known and have a price.
    pub fn cost(&self, usage: Option<Usage>) -> Micros {
        match usage {
            Some(usage) if self.is_by_token() => self.tokens(usage.input, usage.output),
            _ => self.per_call,
        }
    }

    /// Whether [`Price::cost`] is a guess, because tokens have a price and are not known.
    pub fn is_guess(&self, usage: Option<Usage>) -> bool {
        usage.is_none() && self.is_by_token()
    }

    /// The most that a call can cost. A token has at least one byte, so a prompt of `bytes` bytes
    /// has at most as many tokens.
    pub fn at_most(&self, bytes: usize, max_output_tokens: u32) -> Micros {
        // Roles and separators are tokens too.
        const OVERHEAD: u64 = 64;
        self.tokens(bytes as u64 + OVERHEAD, u64::from(max_output_tokens)).max(self.per_call)
    }

    fn tokens(&self, input: u64, output: u64) -> Micros {
        self.input_per_million.for_tokens(input).plus(self.output_per_million.for_tokens(output))
    }
}

/// The price of every provider.
#[derive(Clone, Debug)]
pub struct PriceList {
    prices: [Price; ProviderId::ALL.len()],
}

impl PriceList {
    /// The default prices, and what the environment says instead:
    /// `<PROVIDER>_COST_PER_CALL` in dollars, `<PROVIDER>_INPUT_PRICE` and
    /// `<PROVIDER>_OUTPUT_PRICE` in dollars for a million tokens.
    pub fn from_settings(settings: &Settings) -> Self {
        let price = |id| {
            let provider = settings::provider(id);
            Price {
                per_call: amount(settings, &provider.cost_per_call),
                input_per_million: amount(settings, &provider.input_price),
                output_per_million: amount(settings, &provider.output_price),
            }
        };
        Self { prices: ProviderId::ALL.map(price) }
    }

    /// What a provider costs.
    pub fn of(&self, id: ProviderId) -> Price {
        self.prices[id as usize]
    }
}

/// An amount of dollars from the settings.
pub fn amount(settings: &Settings, setting: &Setting) -> Micros {
    Micros::from_dollars(settings.decimal(setting)).expect("the bounds of the setting are those of amounts")
}

/// List prices of the default models in micro-dollars, taken on 2026-11-24 from the providers' own
/// pages: `gpt-6-luna` (developers.openai.com), `deepseek-flash` at its peak price
/// (api-docs.deepseek.com), `claude-haiku-4-5` (platform.claude.com); `gemini-3.5-flash-lite` as
/// gateways that resell it list it; for Hugging Face, whose router asks several hosts, more than most of them take
/// for a model of this size. Where a provider changes them, the environment is the place to say so.
pub(crate) const fn default_price(id: ProviderId) -> Price {
    match id {
        ProviderId::OpenAi => Price::new(10_000, 100_000, 500_000),
        ProviderId::DeepSeek => Price::new(2_000, 300_000, 1_200_000),
        ProviderId::Anthropic => Price::new(12_000, 1_000_000, 5_000_000),
        ProviderId::Gemini => Price::new(4_000, 300_000, 2_500_000),
        ProviderId::HuggingFace => Price::new(5_000, 200_000, 200_000),
        ProviderId::Ollama | ProviderId::LocalAi => Price::FREE,
    }
}

#[cfg(test)]
mod tests {
    use phase6_chassis::InvalidSettings;
    use proptest::prelude::*;

    use super::*;

    fn list(variables: &[(&str, &str)]) -> Result<PriceList, InvalidSettings> {
        let settings = Settings::new(settings::SETTINGS, &variables.iter().copied().collect())?;
        Ok(PriceList::from_settings(&settings))
    }

    #[test]
    fn the_environment_can_change_every_price() {
        let list = list(&[
            ("OPENAI_COST_PER_CALL", "0.5"),
            ("OPENAI_INPUT_PRICE", "2"),
            ("OLLAMA_COST_PER_CALL", "0.01"),
        ])
        .unwrap();
        let openai = list.of(ProviderId::OpenAi);
        assert_eq!(
            (openai.per_call, openai.input_per_million),
            (Micros::new(500_000), Micros::new(2_000_000))
        );
        assert!(!list.of(ProviderId::Ollama).is_free());
        assert!(list.of(ProviderId::LocalAi).is_free());
        assert_eq!(list.of(ProviderId::Gemini), default_price(ProviderId::Gemini));
    }

    #[test]
    fn a_price_that_is_none_is_told_by_name() {
        let error = list(&[("GEMINI_INPUT_PRICE", "-1")]).unwrap_err().to_string();
        assert!(error.contains("GEMINI_INPUT_PRICE") && error.contains("\"-1\""), "{error}");
    }

    /// A call that has a price was free where its tokens had none and the provider counted them.
    #[test]
    fn a_call_has_its_price_where_tokens_have_none() {
        let price = Price::new(30_000, 0, 0);
        let usage = Usage { input: 1_000, output: 500 };
        assert_eq!(price.cost(Some(usage)), Micros::new(30_000));
        assert!(!price.is_guess(None), "it is what was agreed");
        assert_eq!(Price::FREE.cost(Some(usage)), Micros::ZERO);
    }

    proptest! {
        /// What is set aside is enough: the daily limit rests on it.
        #[test]
        fn no_call_costs_more_than_was_set_aside(
            bytes in 0..100_000_usize, output in 0..8_192_u32, used_input in 0..100_064_u64, used_output in 0..8_192_u64,
        ) {
            for id in ProviderId::ALL {
                let price = default_price(id);
                let usage = Usage { input: used_input.min(bytes as u64 + 64), output: used_output.min(u64::from(output)) };
                prop_assert!(price.cost(Some(usage)) <= price.at_most(bytes, output));
                prop_assert!(price.cost(None) <= price.at_most(bytes, output));
            }
        }
    }
}
